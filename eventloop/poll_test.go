package eventloop_test

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/eventloop"
)

// With events that come soon the loop does not sleep; when they stay away it does,
// and one that comes late does not have it look for the next.
func TestLoopPollsWhileEventsComeSoon(t *testing.T) {
	const step, limit = time.Microsecond, 100 * time.Microsecond
	var now time.Duration
	looks, soon := 0, 0 // readings of the clock; at which of them the next event comes
	fd := eventfd(t)
	loop, err := eventloop.New(func() time.Duration {
		looks++
		if now += step; looks == soon {
			signal(t, fd)
		}
		return now
	})
	if err != nil {
		t.Fatal(err)
	}
	defer loop.Close()
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
