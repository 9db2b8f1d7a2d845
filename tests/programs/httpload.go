// httpload serve: answers requests with JSON, and prints its address.
// httpload flood ADDRESS: asks as fast as it can at the least cost of its own, so that the server has most
// to do, and prints each millisecond how many answers came.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"sort"
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

func count(answers *atomic.Int64) {
	for range time.Tick(time.Millisecond) {
		if _, err := fmt.Println(answers.Load()); err != nil {
			return
		}
	}
}

func flood(address string) {
	request := []byte("GET / HTTP/1.1\r\nHost: " + address + "\r\n\r\n")
	// The answer is sent in chunks, of which the last is empty, and nothing in it looks like that.
	end := []byte("\r\n0\r\n\r\n")
	var answers atomic.Int64
	for n := 0; n < 8; n++ {
		go func() {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				panic(err)
			}
			buffer := make([]byte, 64<<10)
			for {
				if _, err := conn.Write(request); err != nil {
					panic(err)
				}
				for length := 0; !bytes.HasSuffix(buffer[:length], end); {
					read, err := conn.Read(buffer[length:])
					if err != nil {
						panic(err)
					}
					length += read
				}
				answers.Add(1)
			}
		}()
	}
	count(&answers)
}

func main() {
	if os.Args[1] == "serve" {
		serve()
		return
	}
	flood(os.Args[2])
}
