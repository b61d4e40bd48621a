package eventloop

import "time"

// polling decides whether the loop looks for events for a while before it sleeps:
// to be woken costs a thread many times what a look costs it. It is worth that
// while events come soon after one another, and an idle loop never does it.
type polling struct {
	limit time.Duration // how long to look; 0: never
	worth bool          // the last event came sooner than that
}

// SetPoll has the loop look for events for up to limit before it sleeps, as long as
// events come that soon. It takes a processor meanwhile.
func (l *Loop) SetPoll(limit time.Duration) { l.polling.limit = limit }

// await is wait for a loop that may sleep: it returns how many entries of l.ready
// are filled in once there are some, the worker has more to do or its deadline has come.
func (l *Loop) await() (int, error) {
	p := &l.polling
	began := l.clock()
	l.turns.Observe(began - l.now)
	now := began
	for p.worth {
		found := l.worker.Look()
		// Looked for in any case, lest the worker's business without end hide events.
		if n, err := l.wait(0); n > 0 || found || err != nil {
			return n, err
		}
		now = l.clock()
		p.worth = now-began < p.limit
	}
	if l.worker.Rest() {
		return l.wait(0)
	}
	n, err := l.sleep(now)
	p.worth = p.limit > 0 && n > 0 && l.clock()-began < p.limit
	return n, err
}
