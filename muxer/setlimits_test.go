package muxer_test

import (
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
)

// What is open beyond a lowered limit stays; nothing new begins until there is room.
// A limit never rises over that of New.
func TestLimitsChange(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{Config: muxer.Config{MaxConnections: 3}})
	p, g := v.listen(52), v.guest()
	limit := func(n int) { v.do(func() { v.m.SetLimits(n, 1<<20) }) }
	v.dial(g, p, 52)
	v.dial(g, p, 52)
	limit(1)
	if _, err := g.Dial(52); err != muxertest.ErrReset {
		t.Fatalf("beyond the limit: %v", err)
	}
	if n := v.connections(); n != 2 {
		t.Errorf("%d connections, want those of before", n)
	}
	limit(100)
	v.dial(g, p, 52)
	if _, err := g.Dial(52); err != muxertest.ErrReset {
		t.Fatalf("beyond the limit of New: %v", err)
	}
}

// Host programs that wait in the backlog get their turn when the limit rises.
func TestListenerResumesAtAHigherLimit(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{Config: muxer.Config{MaxConnections: 10}})
	l := v.guest().Listen(52)
	v.do(func() { v.m.SetLimits(1, 1<<20) })
	v.call(l, 52)
	for range muxer.Refusals {
		v.connect()
	}
	v.eventually("the listener has paused", func() bool { return v.stats.Clients.Load() == muxer.Refusals })
	late := v.client("CONNECT 52\n")
	v.do(func() {})
	v.do(func() { v.m.SetLimits(10, 1<<20) })
	late.wantEOF() // heard out, for clients in their CONNECT line count, too
}
