// Logpack is the program that the manual's transcripts profile. It reads log records as JSON,
// sorts them by duration, and packs them with gzip, over and over.
//
//	go build -o logpack docs/examples/logpack.go
//	./logpack -for 20s -level 3
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"math/rand"
	"os"
	"sort"
	"time"
)

type record struct {
	Path   string  `json:"path"`
	Status int     `json:"status"`
	Millis float64 `json:"millis"`
	Client string  `json:"client"`
}

func main() {
	duration := flag.Duration("for", 10*time.Second, "how long to run")
	level := flag.Int("level", 3, "level of gzip")
	flag.Parse()
	lines := generate(4000)
	for end := time.Now().Add(*duration); time.Now().Before(end); {
		if err := pack(lines, *level); err != nil {
			log.Fatal(err)
		}
	}
}

func generate(count int) [][]byte {
	random := rand.New(rand.NewSource(1))
	var lines [][]byte
	for range count {
		lines = append(lines, fmt.Appendf(nil,
			`{"path":"/item/%d","status":%d,"millis":%.3f,"client":"10.0.%d.%d"}`,
			random.Intn(500), 200+random.Intn(5), random.ExpFloat64()*20,
			random.Intn(256), random.Intn(256)))
	}
	return lines
}

func pack(lines [][]byte, level int) error {
	records, err := decode(lines)
	if err != nil {
		return err
	}
	slowest(records)
	packed, err := compress(records, level)
	if err != nil {
		return err
	}
	return store(packed)
}

func decode(lines [][]byte) ([]record, error) {
	records := make([]record, len(lines))
	for i, line := range lines {
		if err := json.Unmarshal(line, &records[i]); err != nil {
			return nil, err
		}
	}
	return records, nil
}

func slowest(records []record) {
	sort.Slice(records, func(i, j int) bool { return records[i].Millis > records[j].Millis })
}

func compress(records []record, level int) ([]byte, error) {
	var packed bytes.Buffer
	writer, err := gzip.NewWriterLevel(&packed, level)
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		fmt.Fprintf(writer, "%s %d %.3f %s\n", r.Path, r.Status, r.Millis, r.Client)
	}
	return packed.Bytes(), writer.Close()
}

func store(packed []byte) error {
	file, err := os.CreateTemp("", "logpack")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	for range 100 {
		if _, err := file.WriteAt(packed, 0); err != nil {
			return err
		}
	}
	return nil
}
