package eventloop_test

import (
	"bufio"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/eventloop"
)

// ticks returns a clock that goes on by a microsecond each time it is read.
func ticks() eventloop.Clock {
	var now time.Duration
	return func() time.Duration { now += time.Microsecond; return now }
}

// soonEnough is how many events in a row have to come soon before the loop looks for them.
const soonEnough = 8

// With events that come soon the loop does not sleep; when they stay away it does,
// and one that comes late does not have it look for the next.
func TestLoopPollsWhileEventsComeSoon(t *testing.T) {
	const step, limit = time.Microsecond, 100 * time.Microsecond
	var now time.Duration
	looks, soon := 0, 0 // readings of the clock; at which of them the next event comes
	fd := eventfd(t)
	loop := newLoopBy(t, func() time.Duration {
		looks++
		if now += step; looks == soon {
			signal(t, fd)
		}
		return now
	})
	loop.SetPoll(eventloop.Poll{Limit: limit})

	wakes := false // something is to come as soon as it sleeps
	loop.SetWorker(&worker{
		work: func() bool { return false },
		rest: func() bool {
			if wakes {
				signal(t, fd)
			}
			return false
		},
	})

	var most int // looks between two events
	events, last := 0, 0
	loop.Add(fd, unix.EPOLLIN, handler(func(uint32) {
		unix.Read(fd, make([]byte, 8))
		events++
		most, last = max(most, looks-last), looks
		switch {
		case events <= soonEnough: // the next wait ends at once
			signal(t, fd)
		case events <= soonEnough+3: // a loop that slept would never wake for the next
			soon = looks + 20
		case events == soonEnough+4: // it looks in vain
			wakes = true
		case events == soonEnough+5: // for as long as the limit, by the clock that it looks at
			if most < 90 || most > 150 {
				t.Errorf("%d looks before it slept", most)
			}
			most = 0
		default:
			if most > 20 {
				t.Errorf("%d looks after an event that came late", most)
			}
			loop.Stop()
		}
	}))
	signal(t, fd)
	if err := loop.Run(); err != nil {
		t.Fatal(err)
	}
}

// Before it sleeps the loop lets the worker rest, and works on when that finds something.
func TestLoopRestsBeforeItSleeps(t *testing.T) {
	loop := newLoop(t)
	fd := eventfd(t)
	var order []string
	loop.Add(fd, unix.EPOLLIN, handler(func(uint32) {
		order = append(order, "event")
		loop.Stop()
	}))
	loop.SetWorker(&worker{
		work: func() bool {
			order = append(order, "work")
			return len(order) == 1
		},
		rest: func() bool {
			order = append(order, "rest")
			if len(order) == 3 {
				return true
			}
			signal(t, fd)
			return false
		},
		look: func() bool { t.Error("it looks"); return false },
	})
	if err := loop.Run(); err != nil {
		t.Fatal(err)
	}
	want := []string{"work", "work", "rest", "work", "rest", "event"}
	if !slices.Equal(order[:len(want)], want) {
		t.Errorf("%v, want %v", order, want)
	}
}

// A worker that finds more each time it looks or rests hides no event.
func TestLoopServesEventsOfABusyWorker(t *testing.T) {
	for _, poll := range []time.Duration{0, 50 * time.Microsecond} {
		loop := newLoopBy(t, ticks())
		loop.SetPoll(eventloop.Poll{Limit: poll})
		fd := eventfd(t)
		served, turns, found := 0, 0, 0
		loop.Add(fd, unix.EPOLLIN, handler(func(uint32) {
			unix.Read(fd, make([]byte, 8))
			served++
		}))
		find := func() bool {
			found++
			signal(t, fd)
			return found > soonEnough // it sleeps, and wakes at once, the first times
		}
		loop.SetWorker(&worker{
			work: func() bool {
				if turns++; turns == 100 {
					loop.Stop()
				}
				return false
			},
			look: find,
			rest: find,
		})
		if err := loop.Run(); err != nil {
			t.Fatal(err)
		}
		if found < turns/3 || served < found-1 {
			t.Errorf("polling for %v: found something %d times in %d turns, served %d events", poll, found, turns, served)
		}
	}
}

// A loop that polls lets the worker look instead, until it has polled for long enough.
func TestLoopLooksWhileItPolls(t *testing.T) {
	loop := newLoopBy(t, ticks())
	loop.SetPoll(eventloop.Poll{Limit: 50 * time.Microsecond})
	fd := eventfd(t)
	loop.Add(fd, unix.EPOLLIN, handler(func(uint32) { unix.Read(fd, make([]byte, 8)) }))
	var works, looks, rests int
	loop.SetWorker(&worker{
		work: func() bool { works++; return false },
		look: func() bool { looks++; return looks <= 3 },
		rest: func() bool {
			if rests++; rests <= soonEnough {
				signal(t, fd) // it wakes at once
			} else {
				loop.Stop()
			}
			return false
		},
	})
	if err := loop.Run(); err != nil {
		t.Fatal(err)
	}
	// Once at the start, for each event, and for each look that found something.
	if works < soonEnough+4 || looks < 30 || rests != soonEnough+1 {
		t.Errorf("worked %d times, looked %d, rested %d", works, looks, rests)
	}
}

// Where a few events come soon and then none for long, as in round trips of a slow guest,
// the loop would only look in vain.
func TestLoopDoesNotPollBetweenFewEvents(t *testing.T) {
	var now time.Duration
	loop := newLoopBy(t, func() time.Duration { now += time.Microsecond; return now })
	loop.SetPoll(eventloop.Poll{Limit: 50 * time.Microsecond})
	fd := eventfd(t)
	loop.Add(fd, unix.EPOLLIN, handler(func(uint32) { unix.Read(fd, make([]byte, 8)) }))
	rests := 0
	loop.SetWorker(&worker{
		work: func() bool { return false },
		look: func() bool { t.Error("it looks"); loop.Stop(); return false },
		rest: func() bool {
			if rests++; rests == 100 {
				loop.Stop()
			}
			if rests%soonEnough == 0 {
				now += time.Millisecond // until the next event
			}
			signal(t, fd)
			return false
		},
	})
	if err := loop.Run(); err != nil {
		t.Fatal(err)
	}
}

// Where others run for long when the loop gives way, it sleeps for the next while.
func TestLoopDoesNotPollOnABusyProcessor(t *testing.T) {
	const run = time.Millisecond // of somebody else
	var now time.Duration
	others := false // they run when the clock is read next
	loop := newLoopBy(t, func() time.Duration {
		if now += time.Microsecond; others {
			others = false
			now += run
		}
		return now
	})
	loop.SetPoll(eventloop.Poll{Limit: 20 * run})
	fd := eventfd(t)
	loop.Add(fd, unix.EPOLLIN, handler(func(uint32) { unix.Read(fd, make([]byte, 8)) }))
	var looks int
	var begins, ends time.Duration // when the loop ceases to look, and does so again
	loop.SetWorker(&worker{
		work: func() bool { return false },
		look: func() bool {
			switch looks++; {
			case looks == 10:
				others = true
			case looks > 11 && ends == 0:
				ends = now
				loop.Stop()
			}
			return false
		},
		rest: func() bool {
			if looks > 0 && begins == 0 {
				begins = now
			}
			now += 100 * time.Microsecond // less than the limit
			signal(t, fd)                 // it wakes at once
			return false
		},
	})
	if err := loop.Run(); err != nil {
		t.Fatal(err)
	}
	if took := ends - begins; took < 15*run || took > 18*run {
		t.Errorf("it sleeps for %v", took)
	}
}

// A loop that polls leaves its processor to others that want it: each look lets them run,
// not only the end of its time slice, which is thousands of looks later.
func TestLoopThatPollsGivesWay(t *testing.T) {
	runtime.LockOSThread() // for good, since it stays on its processor
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	first := 0
	for !all.IsSet(first) {
		first++
	}
	one.Set(first)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	startBusyProcess(t)

	const least, most = 10, 100
	loop := newLoopBy(t, ticks())
	loop.SetPoll(eventloop.Poll{Limit: most * time.Microsecond})
	fd := eventfd(t)
	loop.Add(fd, unix.EPOLLIN, handler(func(uint32) { unix.Read(fd, make([]byte, 8)) }))
	var looks, rests int
	var before int64
	loop.SetWorker(&worker{
		work: func() bool { return false },
		look: func() bool { looks++; return false },
		rest: func() bool {
			if rests++; rests <= soonEnough {
				signal(t, fd) // it wakes at once
				before = takenAway(t)
			} else {
				loop.Stop()
			}
			return false
		},
	})
	if err := loop.Run(); err != nil {
		t.Fatal(err)
	}
	if n := takenAway(t) - before; looks < most/2 || n < least {
		t.Errorf("%d looks, and others ran in between %d times", looks, n)
	}
}

// startBusyProcess starts one that is busy until the end of t, on the processor of the
// calling thread.
func startBusyProcess(t *testing.T) {
	t.Helper()
	cmd := exec.Command("sh", "-c", "ulimit -t 30; echo; while :; do :; done")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
}

// takenAway returns how often the calling thread lost its processor while it could run.
func takenAway(t *testing.T) int64 {
	t.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &usage); err != nil {
		t.Fatal(err)
	}
	return usage.Nivcsw
}
