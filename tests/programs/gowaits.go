// gowaits [rates|storm|work]: goroutines that wait for each other in known ways, for ever, and of which
// the runtime counts nothing; with `rates` it does. With `storm` they wait as often as they can; with
// `work` as often as one has done something, on one CPU, and it prints how often that was.
package main

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"
)

const millisecond = time.Millisecond

//go:noinline
func receive(from chan int) {
	for range from {
	}
}

//go:noinline
func send(to chan int, every time.Duration) {
	for {
		time.Sleep(every)
		to <- 1
	}
}

//go:noinline
func choose(one, other chan int) {
	for {
		select {
		case <-one:
		case <-other:
		}
	}
}

//go:noinline
func slow(from chan int) {
	for range from {
		time.Sleep(12 * millisecond)
	}
}

//go:noinline
func push(to chan int) {
	for {
		to <- 1
	}
}

//go:noinline
func holdLong(lock *sync.Mutex) {
	for {
		lock.Lock()
		time.Sleep(20 * millisecond)
		lock.Unlock()
	}
}

//go:noinline
func holdShort(lock *sync.Mutex) {
	for {
		lock.Lock()
		time.Sleep(5 * millisecond)
		lock.Unlock()
	}
}

//go:noinline
func write(lock *sync.RWMutex) {
	for {
		lock.Lock()
		time.Sleep(8 * millisecond)
		lock.Unlock()
		time.Sleep(4 * millisecond)
	}
}

//go:noinline
func read(lock *sync.RWMutex) {
	for {
		lock.RLock()
		time.Sleep(millisecond)
		lock.RUnlock()
	}
}

//go:noinline
func gather() {
	for {
		var group sync.WaitGroup
		for n := 1; n <= 3; n++ {
			group.Add(1)
			go func(n time.Duration) {
				time.Sleep(n * 5 * millisecond)
				group.Done()
			}(time.Duration(n))
		}
		group.Wait()
	}
}

//go:noinline
func listen(condition *sync.Cond) {
	for {
		condition.L.Lock()
		condition.Wait()
		condition.L.Unlock()
	}
}

//go:noinline
func call(condition *sync.Cond) {
	for {
		time.Sleep(9 * millisecond)
		condition.Broadcast()
	}
}

//go:noinline
func ping(one, other chan int) {
	for {
		one <- 1
		<-other
	}
}

//go:noinline
func pong(one, other chan int) {
	for {
		<-one
		other <- 1
	}
}

//go:noinline
func work(one, other chan int) {
	sum, next := 0, time.Now()
	for done := 0; ; done++ {
		for n := 0; n < 900_000; n++ {
			sum = sum*3 + n
		}
		one <- sum
		<-other
		if now := time.Now(); now.After(next) {
			fmt.Println(done)
			next = now.Add(20 * millisecond)
		}
	}
}

func main() {
	is := func(word string) bool { return len(os.Args) > 1 && os.Args[1] == word }
	if is("rates") {
		runtime.SetBlockProfileRate(1)
		runtime.SetMutexProfileFraction(1)
	}
	if is("storm") {
		one, other := make(chan int), make(chan int)
		go ping(one, other)
		pong(one, other)
	}
	if is("work") {
		runtime.GOMAXPROCS(1)
		one, other := make(chan int), make(chan int)
		go pong(one, other)
		work(one, other)
	}
	slowly, one, other, full := make(chan int), make(chan int), make(chan int), make(chan int, 1)
	go receive(slowly)
	go send(slowly, 7*millisecond)
	go choose(one, other)
	go send(one, 11*millisecond)
	go send(other, 13*millisecond)
	go slow(full)
	go push(full)
	var lock sync.Mutex
	go holdLong(&lock)
	go holdShort(&lock)
	var both sync.RWMutex
	go write(&both)
	go read(&both)
	go gather()
	condition := sync.NewCond(&sync.Mutex{})
	go listen(condition)
	go listen(condition)
	call(condition)
}
