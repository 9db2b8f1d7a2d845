// gocpu SECONDS FILE: encodes, looks up, sends, locks and calls C for so long, and writes the CPU profile
// that Go takes of it to FILE.
package main

// #include <stdint.h>
// __attribute__((noinline)) static uint64_t burn_in_c(uint64_t rounds) {
//     uint64_t sum = 1;
//     for (uint64_t i = 0; i < rounds; i++)
//         sum = sum * 3 + (sum >> 7) + i;
//     return sum;
// }
import "C"

import (
	"encoding/json"
	"os"
	"runtime/pprof"
	"strconv"
	"sync"
	"time"
)

type item struct {
	Name  string
	Price float64
	Tags  []string
}

//go:noinline
func encode() {
	items := make([]item, 50)
	for i := range items {
		items[i] = item{"item " + strconv.Itoa(i), float64(i) / 7, []string{"a", "b"}}
	}
	text, _ := json.Marshal(items)
	var back []item
	_ = json.Unmarshal(text, &back)
}

//go:noinline
func lookUp(table map[string]int) (sum int) {
	for i := 0; i < 2000; i++ {
		sum += table[strconv.Itoa(i%500)]
	}
	return sum
}

//go:noinline
func send(numbers chan int) (sum int) {
	for i := 0; i < 500; i++ {
		numbers <- i
		sum += <-numbers
	}
	return sum
}

var lock sync.Mutex
var counted int

//go:noinline
func count() {
	for i := 0; i < 2000; i++ {
		lock.Lock()
		counted++
		lock.Unlock()
	}
}

//go:noinline
func work(end time.Time) {
	table := map[string]int{}
	for i := 0; i < 500; i++ {
		table[strconv.Itoa(i)] = i
	}
	numbers := make(chan int, 1)
	for time.Now().Before(end) {
		encode()
		lookUp(table)
		send(numbers)
		count()
		C.burn_in_c(100000)
	}
}

func main() {
	seconds, _ := strconv.Atoi(os.Args[1])
	file, err := os.Create(os.Args[2])
	if err != nil {
		panic(err)
	}
	_ = pprof.StartCPUProfile(file)
	var wait sync.WaitGroup
	for n := 0; n < 2; n++ {
		wait.Add(1)
		go func() {
			defer wait.Done()
			work(time.Now().Add(time.Duration(seconds) * time.Second))
		}()
	}
	wait.Wait()
	pprof.StopCPUProfile()
	file.Close()
}
