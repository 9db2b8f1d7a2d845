// golabels [two|none]: goroutines that say by labels what they do, for ever; with an argument one thing
// alone, with two labels or none.
package main

import (
	"context"
	"os"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
)

var sink [3]uint64

//go:noinline
func checkout() { burn(0, 3_000_000) }

//go:noinline
func search() { burn(1, 1_000_000) }

// Whatever allocates has the collector's work done on the system's stack, for whoever allocates.
//
//go:noinline
func build() {
	var words []string
	for i := range make([]struct{}, 20_000) {
		words = append(words, strings.Repeat(strconv.Itoa(i), 10))
	}
	sink[2] += uint64(len(words))
}

//go:noinline
func unlabelled() { burn(1, 2_000_000) }

func burn(at int, rounds uint64) {
	sum := sink[at]
	for i := uint64(0); i < rounds; i++ {
		sum = sum*3 + i
	}
	sink[at] = sum
}

//go:noinline
func odd() { burn(0, 2_000_000) }

//go:noinline
func even() { burn(1, 2_000_000) }

func main() {
	long := strings.Repeat("x", 100)
	do := func(work func(), labels ...string) {
		pprof.Do(context.Background(), pprof.Labels(labels...), func(context.Context) { work() })
	}
	if len(os.Args) > 1 {
		for os.Args[1] == "none" {
			checkout()
		}
		// As a server does, for each request.
		for {
			do(checkout, "handler", "checkout", "tier", "gold")
		}
	}
	for {
		do(checkout, "handler", "checkout", "tier", "gold")
		do(search, "handler", "search", "pid", "1", "long", long)
		do(build, "a", "1", "b", "2", "c", "3", "d", "4", "e", "5", "f", "6", "g", "7", "h", "8", "handler", "build")
		unlabelled()
		// One after the other in the same memory, as soon as the collector has it back.
		runtime.GC()
		do(odd, "handler", strings.Clone("a turn that is the odd one"))
		runtime.GC()
		do(even, "handler", strings.Clone("a turn that is an even one"))
	}
}
