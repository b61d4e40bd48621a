package eventloop

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/stats"
)

// Poll is how a loop looks for events before it sleeps: to be woken costs a thread many
// times what a look costs it. It is worth that while events come soon after one another,
// by which an idle loop never does it, and while nobody else wants the processor.
type Poll struct {
	Limit   time.Duration  // how long to look; 0: never
	Crowded func() bool    // whether others want the processor, asked once a millisecond at most; nil: nobody does
	Spent   *stats.Counter // of nanoseconds for which the loop has looked in vain; nil: they are not counted
}

const (
	// soonEnough is how many events in a row have to come soon. Two do in each round trip
	// of a guest that is slow to answer, and then none for long. Of nine waits one at most
	// begins with looks in vain.
	soonEnough = 8
	// crowdedEvery is how often to ask whether others want the processor, and crowdedFor
	// how long to believe that they do.
	crowdedEvery = time.Millisecond
	crowdedFor   = 10 * time.Millisecond
	// A loop that was kept from its processor for longer than a visit, such as who makes
	// the next event pays it, sleeps for awayFactor times as long, but awayMost at most: it
	// may have been frozen for hours.
	visit      = 100 * time.Microsecond
	awayFactor = 16
	awayMost   = time.Second
)

// polling decides when a loop looks for events.
type polling struct {
	Poll
	soon  int           // events in a row that came sooner than the limit
	asked time.Duration // when Crowded was called
	pause time.Duration // until when it does not look
}

// SetPoll has the loop look for events before it sleeps, as long as they come soon.
func (l *Loop) SetPoll(p Poll) {
	if p.Spent == nil {
		p.Spent = new(stats.Counter)
	}
	l.polling = polling{Poll: p}
}

// pays reports whether to look now.
func (p *polling) pays(now time.Duration) bool {
	if p.soon < soonEnough || now < p.pause {
		return false
	}
	if p.Crowded != nil && now-p.asked >= crowdedEvery {
		p.asked = now
		if p.Crowded() {
			p.pause = now + crowdedFor
			return false
		}
	}
	return true
}

// looked notes that a look ended now and how long it took, and reports whether to look on.
// Those who wait for a processor that many want are better served by a loop that sleeps:
// one that looks has to be run before they are, only to find nothing.
func (p *polling) looked(now, took time.Duration) bool {
	p.Spent.Add(uint64(min(took, visit)))
	if took < visit {
		return true
	}
	p.pause = now + min(awayFactor*took, awayMost)
	return false
}

// waited notes how long the loop has waited, and whether something came.
func (p *polling) waited(took time.Duration, came bool) {
	if p.soon++; !came || took >= p.Limit {
		p.soon = 0
	}
}

// await is wait for a loop that may sleep: it returns how many entries of l.ready
// are filled in once there are some, the worker has more to do or its deadline has come.
func (l *Loop) await() (int, error) {
	began := l.clock()
	l.turns.Observe(began - l.now)
	now := began
	if l.polling.pays(began) {
		n, found, err := l.poll(began)
		if found || err != nil {
			return n, err
		}
		now = l.clock()
	}
	if l.worker.Rest() {
		l.polling.waited(now-began, true)
		return l.wait(0)
	}
	n, err := l.sleep(now)
	l.polling.waited(l.clock()-began, n > 0)
	return n, err
}

// poll looks for events, as wait does, and lets the worker look, until something is found,
// or for as long as it pays. The worker looks before others run: what it has to tell them
// they are told first.
func (l *Loop) poll(began time.Duration) (n int, found bool, err error) {
	end := began + l.polling.Limit
	if at, ok := l.worker.Deadline(); ok {
		end = min(end, at)
	}
	for now := began; now < end; {
		if n, err = l.wait(0); n > 0 || err != nil || l.worker.Look() {
			return n, true, err
		}
		giveWay()
		before := now
		now = l.clock()
		if !l.polling.looked(now, now-before) {
			break
		}
	}
	return 0, false, nil
}

// giveWay lets other threads run that wait for this processor, one of which may be who
// makes the next event. With nobody waiting it returns at once. Linux lets only those of
// the same scheduling group run: neither another session's, by autogrouping, nor another
// control group's.
func giveWay() {
	unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) //nolint:errcheck // it cannot fail
}
