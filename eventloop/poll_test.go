package eventloop_test

import (
	"slices"
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
	loop.SetPoll(limit)

	var most int // looks between two events
	events, last := 0, 0
	loop.Add(fd, unix.EPOLLIN, handler(func(uint32) {
		unix.Read(fd, make([]byte, 8))
		events++
		most, last = max(most, looks-last), looks
		switch events {
		case 1: // the next wait ends at once, so it is worth to look from now on
			signal(t, fd)
		case 2, 3, 4: // a loop that slept would never wake for the next
			soon = looks + 20
		case 5: // it has slept when somebody else wakes it
			time.AfterFunc(50*time.Millisecond, func() { signal(t, fd) })
		case 6: // for a long time, by the clock that it looks at
			if most < 90 || most > 150 {
				t.Errorf("%d looks before it slept", most)
			}
			now += time.Second
			most = 0
			time.AfterFunc(50*time.Millisecond, func() { signal(t, fd) })
		case 7:
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
		loop.SetPoll(poll)
		fd := eventfd(t)
		served, turns, looks, rests := 0, 0, 0, 0
		loop.Add(fd, unix.EPOLLIN, handler(func(uint32) { served++ })) // it stays ready
		loop.SetWorker(&worker{
			work: func() bool {
				if turns++; turns == 100 {
					loop.Stop()
				}
				return false
			},
			look: func() bool { looks++; return true },
			rest: func() bool { rests++; return rests > 1 }, // it wakes at once the first time
		})
		signal(t, fd)
		if err := loop.Run(); err != nil {
			t.Fatal(err)
		}
		if busy := max(looks, rests); busy < turns-3 || served < turns-3 {
			t.Errorf("polling for %v: looked %d times, rested %d, served in %d of %d turns", poll, looks, rests, served, turns)
		}
	}
}

// A loop that polls lets the worker look instead, until it has polled for long enough.
func TestLoopLooksWhileItPolls(t *testing.T) {
	loop := newLoopBy(t, ticks())
	loop.SetPoll(50 * time.Microsecond)
	fd := eventfd(t)
	loop.Add(fd, unix.EPOLLIN, handler(func(uint32) { unix.Read(fd, make([]byte, 8)) }))
	var works, looks, rests int
	loop.SetWorker(&worker{
		work: func() bool { works++; return false },
		look: func() bool { looks++; return looks <= 3 },
		rest: func() bool {
			if rests++; rests == 1 {
				signal(t, fd) // it wakes at once, so it is worth to look from now on
			} else {
				loop.Stop()
			}
			return false
		},
	})
	if err := loop.Run(); err != nil {
		t.Fatal(err)
	}
	// Once at the start, for the event, and for each look that found something.
	if works < 5 || looks < 30 || rests != 2 {
		t.Errorf("worked %d times, looked %d, rested %d", works, looks, rests)
	}
}
