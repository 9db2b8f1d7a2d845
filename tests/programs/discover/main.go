// discover URL: the targets that Prometheus's own HTTP service discovery finds there, as JSON.
package main

import (
	"context"
	"encoding/json"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/http"
)

func main() {
	conf := &http.SDConfig{
		URL:              os.Args[1],
		RefreshInterval:  model.Duration(10 * time.Second),
		HTTPClientConfig: config.DefaultHTTPClientConfig,
	}
	registry := prometheus.NewRegistry()
	metrics := conf.NewDiscovererMetrics(registry, discovery.NewRefreshMetrics(registry))
	found, err := http.NewDiscovery(conf, discovery.DiscovererOptions{Metrics: metrics})
	if err != nil {
		panic(err)
	}
	groups, err := found.Refresh(context.Background())
	if err != nil {
		panic(err)
	}
	var targets []map[string]string
	for _, group := range groups {
		for _, target := range group.Targets {
			labels := map[string]string{}
			for name, value := range target.Merge(group.Labels) {
				labels[string(name)] = string(value)
			}
			targets = append(targets, labels)
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(targets); err != nil {
		panic(err)
	}
}
