package eventloop_test

import (
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/eventloop"
	"github.com/vhost-user-vsock/vhost-user-vsock/stats"
)

// What a turn takes is counted, whether the next one begins at once or after a sleep;
// the sleep is not.
func TestLoopCountsItsTurns(t *testing.T) {
	for name, poll := range map[string]time.Duration{"sleeps": 0, "looks first": time.Microsecond} {
		t.Run(name, func(t *testing.T) {
			now := time.Minute
			loop := newLoopBy(t, func() time.Duration { return now })
			var turns stats.Histogram
			loop.CountTurns(&turns)
			loop.SetPoll(eventloop.Poll{Limit: poll})

			done, worked := 0, false
			loop.SetWorker(&worker{
				work: func() (more bool) {
					done++
					now += time.Duration(done) * time.Second
					worked = true
					return done == 1
				},
				deadline: func() (time.Duration, bool) {
					if worked && done == 2 { // it is about to sleep, for an hour
						loop.Stop() // wakes it
						now += time.Hour
					}
					worked = false
					return 0, false
				},
			})
			if err := loop.Run(); err != nil {
				t.Fatal(err)
			}
			// It was for 0 s that the first turn was waited for.
			if count, sum, within := turns.Load(); count != 3 || sum != 1+2 || within[1e-6] != 1 || within[1.048576] != 2 {
				t.Errorf("%d turns of %v s, %v", count, sum, within)
			}
		})
	}
}
