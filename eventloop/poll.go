package eventloop

import (
	"time"

	"golang.org/x/sys/unix"
)

// polling decides whether the loop looks for events for a while before it sleeps:
// to be woken costs a thread many times what a look costs it. It is worth that
// while events come soon after one another, and an idle loop never does it: of nine
// looks one is in vain at most. Nor does one on a busy processor: see gaveWay.
type polling struct {
	limit time.Duration // how long to look; 0: never
	soon  int           // events in a row that came sooner than that
	worth bool          // it is to look
	busy  time.Duration // until when the processor is too busy
}

const (
	// soonEnough is how many events in a row have to come soon. Two do in each round trip
	// of a guest that is slow to answer, and then none for long.
	soonEnough = 8
	// visit is how long others may run that are only awake to make the next event.
	visit = 100 * time.Microsecond
	// busyFor is how many times as long as others ran the processor counts as busy.
	busyFor = 16
)

// gaveWay notes that giving way took so long, until now. Those who wait for a processor
// that many want are better served by a loop that sleeps: one that looks has to be run
// before they are, only to find nothing.
func (p *polling) gaveWay(now, took time.Duration) {
	if took >= visit {
		p.worth, p.busy = false, now+busyFor*took
	}
}

// waited notes how long the loop has waited, until now, and whether for an event.
func (p *polling) waited(now, took time.Duration, event bool) {
	if p.soon++; !event || took >= p.limit {
		p.soon = 0
	}
	p.worth = p.soon >= soonEnough && now >= p.busy
}

// SetPoll has the loop look for events for up to limit before it sleeps, as long as
// events come that soon. It takes a processor meanwhile that no other thread wants.
func (l *Loop) SetPoll(limit time.Duration) { l.polling.limit = limit }

// await is wait for a loop that may sleep: it returns how many entries of l.ready
// are filled in once there are some, the worker has more to do or its deadline has come.
func (l *Loop) await() (int, error) {
	p := &l.polling
	began := l.clock()
	l.turns.Observe(began - l.now)
	now := began
	for p.worth {
		before := now
		giveWay()
		now = l.clock()
		p.gaveWay(now, now-before)
		if n, err := l.wait(0); n > 0 || err != nil || l.worker.Look() {
			return n, err
		}
		if now-began >= p.limit {
			p.soon, p.worth = 0, false
		}
	}
	if l.worker.Rest() {
		return l.wait(0)
	}
	n, err := l.sleep(now)
	now = l.clock()
	p.waited(now, now-began, n > 0)
	return n, err
}

// giveWay lets other threads run that wait for this processor, one of which may be who
// makes the next event. With nobody waiting it returns at once.
func giveWay() {
	unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) //nolint:errcheck // it cannot fail
}
