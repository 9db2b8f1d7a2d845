// httpload serve: answers requests with JSON, and prints its address.
// httpload load ADDRESS SECONDS: asks as fast as it can, and prints the answers a second.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

type item struct {
	Name  string
	Price float64
	Tags  []string
}

func handle(w http.ResponseWriter, r *http.Request) {
	items := make([]item, 0, 40)
	for n := 0; n < 40; n++ {
		items = append(items, item{fmt.Sprint("item ", n*7919%40), float64(n) / 7, []string{"a", "b"}})
	}
	sort.Slice(items, func(a, b int) bool { return items[a].Name < items[b].Name })
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(items)
}

func serve() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr())
	panic(http.Serve(listener, http.HandlerFunc(handle)))
}

func load(address string, seconds float64) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	var answers atomic.Int64
	var all sync.WaitGroup
	begin := time.Now()
	end := begin.Add(time.Duration(seconds * float64(time.Second)))
	for n := 0; n < 8; n++ {
		all.Add(1)
		go func() {
			defer all.Done()
			for time.Now().Before(end) {
				answer, err := client.Get("http://" + address + "/")
				if err != nil {
					panic(err)
				}
				_, _ = io.Copy(io.Discard, answer.Body)
				answer.Body.Close()
				answers.Add(1)
			}
		}()
	}
	all.Wait()
	fmt.Printf("%f\n", float64(answers.Load())/time.Since(begin).Seconds())
}

func main() {
	if os.Args[1] == "serve" {
		serve()
		return
	}
	seconds, err := strconv.ParseFloat(os.Args[3], 64)
	if err != nil {
		panic(err)
	}
	load(os.Args[2], seconds)
}
