package eventloop_test

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/eventloop"
	"github.com/vhost-user-vsock/vhost-user-vsock/stats"
)

// poller is a loop for which all events come soon: while it sleeps.
type poller struct {
	*eventloop.Loop
	worker
	now   time.Duration // by its clock, of which each reading takes a microsecond
	looks []time.Duration
	took  time.Duration // by the next event, since the loop slept
	look  func()        // while it looks
}

func newPoller(t *testing.T) *poller {
	p := &poller{took: 10 * time.Microsecond, look: func() {}}
	p.Loop = newLoopBy(t, func() time.Duration { p.now += time.Microsecond; return p.now })
	fd := eventfd(t)
	p.Add(fd, unix.EPOLLIN, handler(func(uint32) { unix.Read(fd, make([]byte, 8)) }))
	p.worker.look = func() bool {
		p.looks = append(p.looks, p.now)
		p.look()
		return false
	}
	p.rest = func() bool {
		p.now += p.took
		signal(t, fd)
		return false
	}
	p.SetWorker(&p.worker)
	return p
}

// runUntil runs the loop until its clock says so.
func (p *poller) runUntil(t *testing.T, end time.Duration) {
	t.Helper()
	p.work = func() bool {
		if p.now >= end {
			p.Stop()
		}
		return false
	}
	if err := p.Run(); err != nil {
		t.Fatal(err)
	}
}

// longest returns how long the loop went without a look, and which look came after that.
func (p *poller) longest() (pause time.Duration, next int) {
	for i := 1; i < len(p.looks); i++ {
		if d := p.looks[i] - p.looks[i-1]; d > pause {
			pause, next = d, i
		}
	}
	return pause, next
}

// While others want the processor the loop sleeps. It asks for that now and then, and
// only when it would look.
func TestLoopDoesNotPollOnCrowdedProcessors(t *testing.T) {
	p := newPoller(t)
	var asked []time.Duration
	p.SetPoll(eventloop.Poll{Limit: 50 * time.Microsecond, Crowded: func() bool {
		asked = append(asked, p.now)
		return len(asked) == 3
	}})
	p.runUntil(t, 20*time.Millisecond)
	if len(asked) < 5 {
		t.Fatalf("it asked %d times", len(asked))
	}
	for i := range asked[1:] {
		d, least, most := asked[i+1]-asked[i], time.Millisecond, 1500*time.Microsecond
		if i == 2 {
			least, most = 10*time.Millisecond, 10500*time.Microsecond
		}
		if d < least || d > most {
			t.Errorf("it asks %v after question %d", d, i)
		}
	}
	pause, next := p.longest()
	if pause < 10*time.Millisecond || p.looks[next-1] > asked[2] || p.looks[next] < asked[3] {
		t.Errorf("it does not look for %v up to %v; it was told so at %v", pause, p.looks[next], asked[2])
	}
}

// A loop that could not run for an hour, as a frozen process cannot, does not shun
// polling for a day.
func TestLoopPollsSoonAfterAFreeze(t *testing.T) {
	p := newPoller(t)
	var spent stats.Counter
	p.SetPoll(eventloop.Poll{Limit: 50 * time.Microsecond, Spent: &spent})
	p.took = 40 * time.Microsecond
	p.look = func() {
		if len(p.looks) == 10 {
			p.now += time.Hour
		}
	}
	p.runUntil(t, time.Hour+1200*time.Millisecond)
	pause, next := p.longest()
	if pause -= time.Hour; pause < time.Second || pause > 1100*time.Millisecond || next != 10 {
		t.Errorf("it does not look for %v after look %d", pause, next)
	}
	if d := time.Duration(spent.Load()); d > time.Minute {
		t.Errorf("it says that it looked for %v", d)
	}
}

// What the worker has to do at a time is not late because the loop looks.
func TestLoopPollsUntilTheDeadline(t *testing.T) {
	p := newPoller(t)
	p.SetPoll(eventloop.Poll{Limit: time.Second})
	const due = 500 * time.Microsecond
	var late time.Duration
	p.deadline = func() (time.Duration, bool) { return due, late == 0 }
	p.expire = func(now time.Duration) { late = now - due }
	p.runUntil(t, due)
	if n := len(p.looks); n < 50 || late > 20*time.Microsecond {
		t.Errorf("%v late, after %d looks", late, n)
	}
}

// The time for which a loop looks in vain is counted: it is what an idle guest may cost.
func TestLoopCountsForHowLongItPolls(t *testing.T) {
	p := newPoller(t)
	var spent stats.Counter
	p.SetPoll(eventloop.Poll{Limit: 50 * time.Microsecond, Spent: &spent})
	p.runUntil(t, 10*time.Millisecond)
	if n := len(p.looks); n < 1000 || spent.Load() != uint64(n)*1000 {
		t.Errorf("%d looks of a microsecond took %d ns", n, spent.Load())
	}
}

// A worker that finds something when the loop would sleep had it come soon: else a guest
// that adds to its ring just then would have the loop nearly sleep each time, and never
// look.
func TestLoopPollsWhereWorkComesBeforeItSleeps(t *testing.T) {
	loop := newLoopBy(t, ticks())
	loop.SetPoll(eventloop.Poll{Limit: 50 * time.Microsecond})
	rests, looks := 0, 0
	loop.SetWorker(&worker{
		work: func() bool { return false },
		look: func() bool { looks++; loop.Stop(); return true },
		rest: func() bool {
			if rests++; rests > 2*soonEnough {
				loop.Stop()
			}
			return true
		},
	})
	if err := loop.Run(); err != nil {
		t.Fatal(err)
	}
	if looks == 0 || rests != soonEnough {
		t.Errorf("%d looks after it went to sleep %d times", looks, rests)
	}
}
