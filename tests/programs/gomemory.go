// gomemory GOROUTINES: a service that imports net/http/pprof, has allocated, waited and contended, and
// then does nothing. Prints its address.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	_ "net/http/pprof"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Before main begins, so that all is sampled alike.
var _ = func() int { runtime.MemProfileRate = 4096; return 0 }()

type shape interface{ grow(n int) []byte }

type box struct{ name string }

func (b *box) grow(n int) []byte { return make([]byte, n+len(b.name)) }

// Its method grow is made by the compiler.
type crate struct{ *box }

var kept []interface{}
var mapped = map[int]string{}

func small(n int) []byte { return make([]byte, n) }

//go:noinline
func pair(n int) [][]byte { return [][]byte{small(n), small(2 * n)} }

//go:noinline
func recurse(depth int) interface{} {
	if depth == 0 {
		return small(3000)
	}
	return []interface{}{recurse(depth - 1)}
}

func allocate() {
	shapes := []shape{&box{"box"}, crate{&box{"crate"}}}
	for n := 0; n < 3000; n++ {
		kept = append(kept, pair(50+n%100), shapes[n%2].grow(200))
		mapped[n] = strconv.Itoa(n) + "0123456789"
		text, _ := json.Marshal(map[string]int{"n": n})
		if n%10 == 0 {
			kept = append(kept, text)
		}
	}
	kept = append(kept, recurse(12), func() interface{} { return small(70000) }())
}

type counter struct {
	sync.Mutex
	n int
}

//go:noinline
func (c *counter) add() {
	c.Lock()
	defer c.Unlock()
	c.n++
	time.Sleep(time.Millisecond)
}

// Its work may be a method with its value, which the compiler wraps.
//
//go:noinline
func again(work func(), times int) {
	for i := 0; i < times; i++ {
		work()
	}
}

func contend() {
	var c counter
	var wait sync.WaitGroup
	for n := 0; n < 8; n++ {
		wait.Add(1)
		go func() {
			defer wait.Done()
			again(c.add, 5)
		}()
	}
	wait.Wait()
}

var never = make(chan int)

//go:noinline
func receive() { <-never }

func deeper(depth int) {
	if depth > 0 {
		deeper(depth - 1)
		return
	}
	receive()
}

type waiter interface{ wait() }

type sleeper struct{ *lock }

type lock struct{ sync.Mutex }

//go:noinline
func (l *lock) wait() { l.Lock() }

// What waits with labels, which the goroutines that it starts have, too.
//
//go:noinline
func labelled() {
	for _, labels := range [][]string{{"tier", "gold", "handler", "checkout"}, {"text", "a \"b\": {c} ü\x7f\u202e", "empty", ""}} {
		for n := 0; n < 2; n++ {
			set := pprof.Labels(labels...)
			go func() {
				pprof.Do(context.Background(), set, func(context.Context) {
					go receive()
					receive()
				})
			}()
		}
	}
}

//go:noinline
func park(count int) {
	for n := 0; n < count; n++ {
		go receive()
	}
	go deeper(40)
	go func() {
		select {
		case <-never:
		case <-time.After(time.Hour):
		}
	}()
	var held waiter = sleeper{&lock{}}
	held.wait()
	go held.wait()
	pipe := make([]int, 2)
	if syscall.Pipe(pipe) == nil {
		go func() { syscall.Read(pipe[0], make([]byte, 1)) }()
	}
	go func() {
		runtime.LockOSThread()
		receive()
	}()
	labelled()
	go time.Sleep(time.Hour)
}

func main() {
	runtime.SetBlockProfileRate(1)
	runtime.SetMutexProfileFraction(1)
	count, _ := strconv.Atoi(os.Args[1])
	allocate()
	contend()
	park(count)
	time.Sleep(100 * time.Millisecond)
	runtime.GC()
	runtime.GC()
	debug.SetGCPercent(-1)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr())
	panic(http.Serve(listener, nil))
}
