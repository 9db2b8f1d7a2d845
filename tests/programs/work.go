// work SECONDS: goroutines that burn CPU time.
package main

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"
)

// A leaf function with nothing on its stack keeps no frame pointer: hence the array.
//
//go:noinline
func multiply(rounds uint64) uint64 {
	var sums [8]uint64
	for i := uint64(0); i < rounds; i++ {
		sums[i%8] = sums[(i+1)%8]*3 + i
	}
	return sums[rounds%8]
}

//go:noinline
func drive(until time.Time) uint64 {
	sum := uint64(0)
	for time.Now().Before(until) {
		sum += multiply(100000)
	}
	return sum
}

func main() {
	seconds := 1.0
	if len(os.Args) > 1 {
		seconds, _ = strconv.ParseFloat(os.Args[1], 64)
	}
	until := time.Now().Add(time.Duration(seconds * float64(time.Second)))
	var wait sync.WaitGroup
	for i := 0; i < 2; i++ {
		wait.Add(1)
		go func() {
			fmt.Println(drive(until))
			wait.Done()
		}()
	}
	wait.Wait()
}
