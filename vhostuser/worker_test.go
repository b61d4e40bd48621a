package vhostuser_test

import (
	"testing"
	"time"
)

// The device's deadlines come through, whether or not the server has some of its
// own: a ring that nobody kicks for is looked at every millisecond.
func TestDeadlines(t *testing.T) {
	b := newBackend(t)
	var due time.Duration
	expires := func() {
		t.Helper()
		b.do(func() {
			due = b.loop.Now() + 20*time.Millisecond
			b.deadline, b.expired = due, nil
		})
		b.waitFor("deadline", func() bool { return len(b.expired) > 0 })
		b.do(func() {
			if len(b.expired) != 1 || b.expired[0] < due {
				t.Errorf("due at %v, expired at %v", due, b.expired)
			}
		})
	}
	expires()
	f, _, _ := b.runningPeer()
	expires()
	f.SetVringKick(tx, -1)
	expires()
	before := b.kicked(tx)
	b.waitFor("looked at", func() bool { return b.kicked(tx) > before+1 })
}
