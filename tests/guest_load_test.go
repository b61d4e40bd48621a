package tests

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
)

// load is traffic without end both ways, for a guest to be struck down in.
type load struct {
	down, up *net.UnixConn        // from the guest, to the guest
	flood    func() script.Report // waits for what filled up
}

// load puts the guest under load and returns when bytes flow.
func (l lab) load(t *testing.T) load {
	t.Helper()
	down := l.dial(t, l.serve(t, script.Step{Do: script.Flood, Seed: 12}))
	up := l.dial(t, l.serve(t, script.Step{Do: script.Drain}))
	flood := background(func() script.Report {
		return script.Run(keepOpen{up}, []script.Step{{Do: script.Flood, Seed: 13}}, nil)
	})
	if _, err := io.CopyN(io.Discard, down, mib); err != nil {
		t.Fatalf("the transfer did not begin: %v", err)
	}
	return load{down, up, flood}
}

// mustEnd waits until both connections came to their end.
func (l load) mustEnd(t *testing.T) {
	t.Helper()
	mustEnd(t, l.down)
	l.flood()
	mustEnd(t, l.up)
}

// mustEnd waits until c ends, as it does when its guest is gone: by end of file, or by
// ECONNRESET where bytes written to c were not read.
func mustEnd(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetDeadline(time.Now().Add(limit))
	if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection did not end: %v", err)
	}
}
