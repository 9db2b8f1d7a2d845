// gomany goroutines N: N goroutines that wait.
// gomany sites N: N stacks that have allocated, all of it sampled.
// gomany leak N: N more goroutines each second, that nobody will ever hear of.
// Prints each second the 99th percentile of what a piece of work took, in nanoseconds.
package main

import (
	"fmt"
	"os"
	"runtime"
	"sort"
	"strconv"
	"time"
)

// All is sampled, and the linker sees that somebody reads it.
var _ = func() int { runtime.MemProfileRate = 1; return 0 }()

var kept [][]byte
var never = make(chan int)

//go:noinline
func left(path, depth int) { walk(path, depth) }

//go:noinline
func right(path, depth int) { walk(path, depth) }

//go:noinline
func walk(path, depth int) {
	if depth == 0 {
		kept = append(kept, make([]byte, 64))
	} else if path&1 == 0 {
		left(path>>1, depth-1)
	} else {
		right(path>>1, depth-1)
	}
}

//go:noinline
func forgotten() { <-never }

func work(echo chan int) time.Duration {
	begin := time.Now()
	numbers := make([]int, 300)
	for i := range numbers {
		numbers[i] = i * 7919 % 300
	}
	sort.Ints(numbers)
	echo <- numbers[7]
	<-echo
	return time.Since(begin)
}

func main() {
	count, _ := strconv.Atoi(os.Args[2])
	switch os.Args[1] {
	case "goroutines":
		for n := 0; n < count; n++ {
			go forgotten()
		}
	case "sites":
		for n := 0; n < count; n++ {
			walk(n, 15)
		}
		runtime.MemProfile(nil, true)
		runtime.GC()
		runtime.GC()
		runtime.MemProfileRate = 512 << 10
	case "leak":
		go func() {
			for range time.Tick(time.Second / time.Duration(count)) {
				go forgotten()
			}
		}()
	}
	echo := make(chan int)
	go func() {
		for n := range echo {
			echo <- n
		}
	}()
	var took []time.Duration
	for second := time.Now(); ; {
		took = append(took, work(echo))
		if time.Since(second) >= time.Second {
			sort.Slice(took, func(a, b int) bool { return took[a] < took[b] })
			fmt.Println(took[len(took)*99/100].Nanoseconds())
			took, second = took[:0], time.Now()
		}
		time.Sleep(100 * time.Microsecond)
	}
}
