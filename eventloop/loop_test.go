package eventloop_test

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/eventloop"
)

const timeout = 10 * time.Second

func TestMain(m *testing.M) {
	startPoller()
	fds, goroutines := openFds(), runtime.NumGoroutine()
	code := m.Run()
	// A goroutine that has said its last word needs a moment to be gone.
	for end := time.Now().Add(timeout); runtime.NumGoroutine() > goroutines && time.Now().Before(end); {
		runtime.Gosched()
	}
	if code == 0 && (openFds() != fds || runtime.NumGoroutine() != goroutines) {
		println("descriptors or goroutines are left over")
		code = 1
	}
	os.Exit(code)
}

// startPoller makes the runtime open the descriptors of its own poller, which it
// does when it first needs one.
func startPoller() {
	r, w, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	r.Close()
	w.Close()
}

func openFds() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	return len(entries)
}

// handler calls f with the events.
type handler func(events uint32)

func (h handler) HandleEvents(events uint32) { h(events) }

// worker is a Worker made of functions; those that are nil do nothing.
type worker struct {
	work     func() bool
	rest     func() bool
	look     func() bool
	deadline func() (time.Duration, bool)
	expire   func(time.Duration)
}

func (w *worker) Work() bool { return w.work != nil && w.work() }

func (w *worker) Rest() bool { return w.rest != nil && w.rest() }

func (w *worker) Look() bool { return w.look != nil && w.look() }

func (w *worker) Deadline() (time.Duration, bool) {
	if w.deadline == nil {
		return 0, false
	}
	return w.deadline()
}

func (w *worker) Expire(now time.Duration) {
	if w.expire != nil {
		w.expire(now)
	}
}

func newLoop(t testing.TB) *eventloop.Loop {
	t.Helper()
	return newLoopBy(t, eventloop.Monotonic())
}

func newLoopBy(t testing.TB, clock eventloop.Clock) *eventloop.Loop {
	t.Helper()
	l, err := eventloop.New(clock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error("close:", err)
		}
	})
	return l
}

// run runs the loop in the background until the test ends or Stop takes effect.
func run(t testing.TB, l *eventloop.Loop) (wait func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- l.Run() }()
	wait = sync.OnceFunc(func() {
		select {
		case err := <-done:
			if err != nil {
				t.Error("run:", err)
			}
		case <-time.After(timeout):
			panic("the loop does not stop")
		}
	})
	t.Cleanup(func() { l.Stop(); wait() })
	return wait
}

// await waits for c to be closed or to deliver.
func await[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(timeout):
		t.Fatal("no", what)
		panic("unreachable")
	}
}

// eventfd returns an eventfd that outlives a loop which runs from now on.
func eventfd(t testing.TB) int {
	t.Helper()
	fd := rawEventfd(t)
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func rawEventfd(t testing.TB) int {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

var one = []byte{1, 0, 0, 0, 0, 0, 0, 0}

func signal(t testing.TB, fd int) {
	t.Helper()
	if _, err := unix.Write(fd, one); err != nil {
		t.Fatal(err)
	}
}

// Of two descriptors that are ready at once, the first to be served drops and
// closes the other.
func TestDroppedDescriptorIsNotServed(t *testing.T) {
	l := newLoop(t)
	fds := [2]int{rawEventfd(t), rawEventfd(t)}
	served := 0
	for i, fd := range fds {
		err := l.Add(fd, unix.EPOLLIN, handler(func(uint32) {
			served++
			l.Drop(fds[1-i])
			unix.Close(fds[1-i])
			l.Remove(fd)
			unix.Close(fd)
			l.Stop()
		}))
		if err != nil {
			t.Fatal(err)
		}
		signal(t, fd)
	}
	if err := l.Run(); err != nil || served != 1 {
		t.Errorf("%d handlers were called, error %v", served, err)
	}
}

func TestHandlerIsCalledWhileItsDescriptorIsReady(t *testing.T) {
	l := newLoop(t)
	fd := eventfd(t)
	calls := make(chan uint32, 10)
	err := l.Add(fd, unix.EPOLLIN, handler(func(events uint32) {
		calls <- events
		if len(calls) == 3 { // level-triggered: it stays ready until it is read
			var p [8]byte
			unix.Read(fd, p[:])
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	signal(t, fd)
	run(t, l)
	for range 3 {
		if events := await(t, calls, "event"); events != unix.EPOLLIN {
			t.Errorf("events 0x%x", events)
		}
	}
}

func TestModifyReplacesTheInterest(t *testing.T) {
	l := newLoop(t)
	fd := eventfd(t)
	calls := make(chan uint32, 1)
	err := l.Add(fd, 0, handler(func(events uint32) {
		calls <- events
		if err := l.Modify(fd, 0); err != nil {
			t.Error(err)
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	run(t, l)
	for _, interest := range []uint32{unix.EPOLLOUT, unix.EPOLLOUT} {
		l.Do(func() {
			if err := l.Modify(fd, interest); err != nil {
				t.Error(err)
			}
		})
		if events := await(t, calls, "event"); events != interest {
			t.Errorf("events 0x%x, want 0x%x", events, interest)
		}
	}
}

// Two descriptors are ready in one batch. Whichever comes first removes and
// closes the other and registers a new one, which gets the same number and is
// not ready. The event that is still in the batch is the old one's.
func TestStaleEventsAreDropped(t *testing.T) {
	l := newLoop(t)
	fds := []int{rawEventfd(t), rawEventfd(t)}
	var removed, called []int
	var fresh int
	for i := range fds {
		err := l.Add(fds[i], unix.EPOLLIN, handler(func(uint32) {
			called = append(called, i)
			other := 1 - i
			if slices.Contains(removed, i) {
				t.Error("handler called after Remove")
				return
			}
			removed = append(removed, other)
			if err := l.Remove(fds[other]); err != nil {
				t.Error(err)
			}
			unix.Close(fds[other])
			fresh = rawEventfd(t)
			if fresh != fds[other] {
				t.Errorf("the new descriptor is %d, the closed one was %d", fresh, fds[other])
			}
			err := l.Add(fresh, unix.EPOLLIN, handler(func(events uint32) {
				t.Errorf("stale events 0x%x reach the new handler", events)
			}))
			if err != nil {
				t.Error(err)
			}
			if err := l.Remove(fds[i]); err != nil {
				t.Error(err)
			}
			l.Stop()
		}))
		if err != nil {
			t.Fatal(err)
		}
		signal(t, fds[i])
	}
	run(t, l)()
	if len(called) != 1 {
		t.Errorf("handlers called: %v", called)
	}
	for _, fd := range fds { // the fresh one has the number of one of them
		unix.Close(fd)
	}
}

func TestRemoveInItsOwnHandler(t *testing.T) {
	l := newLoop(t)
	fd := eventfd(t)
	n := 0
	err := l.Add(fd, unix.EPOLLIN, handler(func(uint32) {
		n++
		if err := l.Remove(fd); err != nil {
			t.Error(err)
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	signal(t, fd)
	turns := 0
	l.SetWorker(&worker{work: func() bool {
		if turns++; turns == 3 {
			l.Stop()
		}
		return true
	}})
	run(t, l)()
	if n != 1 {
		t.Errorf("called %d times", n)
	}
}

func TestErrors(t *testing.T) {
	l := newLoop(t)
	file, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fd := eventfd(t)
	nothing := handler(func(uint32) {})
	if err := l.Add(fd, 0, nothing); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		err  error
		want error
	}{
		{"add a negative number", l.Add(-1, 0, nothing), unix.EBADF},
		{"add a closed descriptor", l.Add(5000, 0, nothing), unix.EBADF},
		{"add a regular file", l.Add(int(file.Fd()), 0, nothing), unix.EPERM},
		{"add twice", l.Add(fd, 0, nothing), unix.EEXIST},
		{"modify what is not there", l.Modify(5000, 0), unix.ENOENT},
		{"remove what is not there", l.Remove(5000), unix.ENOENT},
		{"remove a negative number", l.Remove(-1), unix.ENOENT},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, c.err, c.want)
		}
		var syscall *os.SyscallError
		if !errors.As(c.err, &syscall) {
			t.Errorf("%s: %T is no *os.SyscallError", c.name, c.err)
		}
	}
	// A failed Add leaves the first registration in force.
	if err := l.Remove(fd); err != nil {
		t.Error(err)
	}
}

func TestDoFromOtherGoroutines(t *testing.T) {
	l := newLoop(t)
	run(t, l)
	const goroutines, each = 8, 500
	var order [goroutines][]int // the loop's alone until done is closed
	done := make(chan struct{})
	left := goroutines * each
	for g := range goroutines {
		go func() {
			for i := range each {
				l.Do(func() {
					order[g] = append(order[g], i)
					if left--; left == 0 {
						close(done)
					}
				})
			}
		}()
	}
	await(t, done, "last call")
	for g := range order {
		if !slices.IsSorted(order[g]) || len(order[g]) != each {
			t.Errorf("calls of goroutine %d are out of order or missing", g)
		}
	}
}

func TestDoOnTheLoopRunsInTheSameTurnOrTheNext(t *testing.T) {
	l := newLoop(t)
	var log []string
	l.Do(func() {
		l.Do(func() {
			log = append(log, "second")
			l.Stop()
		})
		log = append(log, "first")
	})
	l.SetWorker(&worker{work: func() bool { log = append(log, "work"); return false }})
	run(t, l)()
	if want := []string{"first", "work", "second", "work", "work"}; !slices.Equal(log, want) {
		t.Errorf("%v, want %v", log, want)
	}
}

func TestStopRunsWhatWasQueuedBefore(t *testing.T) {
	l := newLoop(t)
	ran := false
	l.Do(func() { ran = true })
	l.Stop()
	run(t, l)()
	if !ran {
		t.Error("the call was lost")
	}
}

func TestStopEndsABlockedWaitFromAnotherGoroutine(t *testing.T) {
	l := newLoop(t)
	blocked := make(chan struct{})
	l.Do(func() { close(blocked) }) // without a deadline, the next wait is for ever
	wait := run(t, l)
	await(t, blocked, "turn")
	l.Stop()
	wait()
}

func TestDoAndStopAfterCloseAreHarmless(t *testing.T) {
	l, err := eventloop.New(eventloop.Monotonic())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l.Do(func() { t.Error("called") })
	l.Stop()
}

func TestOrderOfATurn(t *testing.T) {
	l := newLoop(t)
	fd := eventfd(t)
	var log []string
	err := l.Add(fd, unix.EPOLLIN, handler(func(uint32) {
		log = append(log, "handler")
		var p [8]byte
		unix.Read(fd, p[:])
	}))
	if err != nil {
		t.Fatal(err)
	}
	l.Do(func() { log = append(log, "call") })
	signal(t, fd) // what comes of the call may rely on it
	l.SetWorker(&worker{
		work:     func() bool { log = append(log, "work"); l.Stop(); return false },
		deadline: func() (time.Duration, bool) { return l.Now(), len(log) == 2 },
		expire:   func(time.Duration) { log = append(log, "expire") },
	})
	run(t, l)()
	want := []string{"call", "handler", "expire", "work"}
	if len(log) < 4 || !slices.Equal(log[:4], want) {
		t.Errorf("%v, want %v", log, want)
	}
}

// A call that comes while others are run, or handlers, wakes the loop again.
func TestNoCallIsLeftBehind(t *testing.T) {
	l := newLoop(t)
	fd := eventfd(t)
	ran := make(chan struct{})
	err := l.Add(fd, unix.EPOLLIN|unix.EPOLLET, handler(func(uint32) {
		l.Do(func() { close(ran) })
	}))
	if err != nil {
		t.Fatal(err)
	}
	signal(t, fd)
	l.Do(func() {}) // its wake-up is in the same turn, behind that
	wait := run(t, l)
	await(t, ran, "call")
	l.Stop()
	wait()
}

// A deadline may move to before the one that the loop sleeps for, and behind it.
func TestDeadlineMoves(t *testing.T) {
	l := newLoop(t)
	at, turns := time.Hour, 0
	expired := make(chan time.Duration, 1)
	l.SetWorker(&worker{
		work:     func() bool { turns++; return false },
		deadline: func() (time.Duration, bool) { return at, true },
		expire:   func(now time.Duration) { at = time.Hour; expired <- now },
	})
	wait := run(t, l)
	for range 3 {
		var want time.Duration
		moved := make(chan struct{})
		l.Do(func() { want = l.Now() + 5*time.Millisecond; at = want; close(moved) })
		<-moved
		l.Do(func() { want += 5 * time.Millisecond; at = want })
		if now := await(t, expired, "expiry"); now < want {
			t.Errorf("expired at %v, the deadline is %v", now, want)
		}
	}
	l.Stop()
	wait()
	if turns > 30 {
		t.Errorf("%d turns for 3 deadlines", turns)
	}
}

func TestDeadlines(t *testing.T) {
	l := newLoop(t)
	at := 30 * time.Millisecond
	var expired []time.Duration
	turns := 0
	l.SetWorker(&worker{
		work:     func() bool { turns++; return false },
		deadline: func() (time.Duration, bool) { return at, len(expired) < 3 },
		expire: func(now time.Duration) {
			if now < at || now != l.Now() {
				t.Errorf("expired at %v, due at %v, the loop's clock says %v", now, at, l.Now())
			}
			expired = append(expired, now)
			at += 30 * time.Millisecond
			if len(expired) == 3 {
				l.Stop()
			}
		},
	})
	start := time.Now()
	run(t, l)()
	if took := time.Since(start); took < 80*time.Millisecond {
		t.Errorf("three deadlines of 30 ms were over after %v", took)
	}
	// The wait is rounded up, so that no turn finds the deadline not yet come;
	// signals of the runtime may end a few.
	if turns > 10 {
		t.Errorf("%d turns for three deadlines", turns)
	}
}

func TestDeadlinesComeByTheClockOfTheLoop(t *testing.T) {
	var now time.Duration
	l := newLoopBy(t, func() time.Duration { return now })
	turns, expired := 0, false
	l.SetWorker(&worker{
		work: func() bool {
			if turns++; turns == 3 {
				now = time.Hour
			}
			return true
		},
		deadline: func() (time.Duration, bool) { return time.Hour, !expired },
		expire: func(at time.Duration) {
			if turns != 3 || at != time.Hour || l.Now() != time.Hour {
				t.Errorf("expired at %v, behind %d turns, now %v", at, turns, l.Now())
			}
			expired = true
			l.Stop()
		},
	})
	if err := l.Run(); err != nil {
		t.Fatal(err)
	}
}

func TestDeadlineInThePastExpiresAtOnce(t *testing.T) {
	l := newLoop(t)
	l.SetWorker(&worker{
		deadline: func() (time.Duration, bool) { return -time.Hour, true },
		expire:   func(time.Duration) { l.Stop() },
	})
	run(t, l)()
}

func TestMoreWorkPollsInsteadOfSleeping(t *testing.T) {
	l := newLoop(t)
	fd := eventfd(t)
	seen := false
	err := l.Add(fd, unix.EPOLLIN, handler(func(uint32) { seen = true; l.Stop() }))
	if err != nil {
		t.Fatal(err)
	}
	turns := 0
	l.SetWorker(&worker{
		work: func() bool {
			if turns++; turns == 1000 {
				signal(t, fd) // still noticed, although there is more work
			}
			return true
		},
		deadline: func() (time.Duration, bool) { return time.Hour, true },
	})
	run(t, l)()
	if !seen || turns < 1000 {
		t.Errorf("%d turns, event seen: %v", turns, seen)
	}
}

func TestATurnDoesNotAllocate(t *testing.T) {
	l := newLoop(t)
	fd := eventfd(t)
	var p [8]byte
	err := l.Add(fd, unix.EPOLLIN, handler(func(uint32) { unix.Read(fd, p[:]) }))
	if err != nil {
		t.Fatal(err)
	}
	const turns = 10_000
	var before, after runtime.MemStats
	n := 0
	l.SetWorker(&worker{
		work: func() bool {
			switch n++; n {
			case 10: // warm
				runtime.ReadMemStats(&before)
			case 10 + turns:
				runtime.ReadMemStats(&after)
				l.Stop()
			}
			signal(t, fd)
			return n%2 == 0
		},
		deadline: func() (time.Duration, bool) { return l.Now() + time.Second, true },
		expire:   func(time.Duration) {},
	})
	run(t, l)()
	if n := after.Mallocs - before.Mallocs; n > turns/100 {
		t.Errorf("%d allocations in %d turns", n, turns)
	}
}

func TestFaultsPanicOnTheLoopsGoroutine(t *testing.T) {
	l := newLoop(t)
	fd, err := unix.MemfdCreate("shrunk", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, 4096); err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	if err := unix.Ftruncate(fd, 0); err != nil {
		t.Fatal(err)
	}
	var fault any
	l.Do(func() {
		defer l.Stop()
		defer func() { fault = recover() }()
		_ = mem[100]
		println(mem[100])
	})
	run(t, l)()
	if f, ok := fault.(interface{ Addr() uintptr }); !ok || f.Addr() == 0 {
		t.Errorf("recovered %v", fault)
	}
}

func BenchmarkTurn(b *testing.B) {
	for _, c := range []struct {
		name string
		more bool
	}{{"poll", true}, {"wait", false}} {
		b.Run(c.name, func(b *testing.B) {
			l := newLoop(b)
			fd := eventfd(b)
			if err := l.Add(fd, unix.EPOLLOUT, handler(func(uint32) {})); err != nil {
				b.Fatal(err)
			}
			n := 0
			l.SetWorker(&worker{work: func() bool {
				if n++; n == b.N {
					l.Stop()
				}
				return c.more
			}})
			b.ReportAllocs()
			b.ResetTimer()
			if err := l.Run(); err != nil {
				b.Fatal(err)
			}
		})
	}
}
