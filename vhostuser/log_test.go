package vhostuser_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// wantLog fails unless lines with these starts were logged, and nothing else.
func (b *backend) wantLog(want ...string) {
	b.t.Helper()
	got := b.logs.take()
	ok := slices.EqualFunc(got, want, func(line, start string) bool { return strings.HasPrefix(line, start) })
	if !ok {
		b.t.Errorf("logged\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestLog(t *testing.T) {
	b := newBackend(t)
	f := b.negotiated()
	f.Close()
	b.waitEnd()
	b.wantLog("info: session begins map[session:1]", "info: session ended map[reason:closed session:1]")

	f = b.negotiated()
	f.Ack(4711, nil)
	f.SetFeatures(^vhostuser.FeatureRingPacked)
	f.Tell(4711, nil)
	b.waitEnd()
	b.wantLog("info: session begins map[session:2]",
		"warning: message refused map[error:request 4711: unknown request session:2]",
		"warning: features that were not offered are ignored map[features:0xfffffffa8bffffff session:2]",
		"warning: session ended map[error:request 4711: unknown request reason:protocol session:2]")
}

// What a frontend can trigger it can trigger a thousand times.
func TestLogIsLimited(t *testing.T) {
	b := newBackend(t)
	f := b.negotiated()
	for range 1000 {
		f.Ack(4711, nil)
		f.SetFeatures(^vhostuser.FeatureRingPacked)
		f.SetConfig(0, 0, nil)
	}
	f.Barrier()
	for range 300 {
		other := b.dial()
		defer other.Close()
	}
	f.Close()
	b.waitEnd()
	for range 100 {
		b.dial().Tell(vhostuser.MsgSetVringEnable, vhostusertest.State(9, 9))
		b.waitEnd()
	}
	if n := len(b.logs.take()); n > 80 {
		t.Errorf("%d lines", n)
	}
}
