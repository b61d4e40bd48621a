package soak

import (
	"fmt"
	"net"
	"sync/atomic"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// lab is a daemon and the guest that runs on it.
type lab struct {
	*vm.Daemon
	*vm.Guest
}

var lastPort atomic.Uint32

// newPort returns a port that was not used before.
func newPort() uint32 { return 1000 + lastPort.Add(1) }

// ask has the guest carry out a request.
func (l lab) ask(req script.Request) ([]script.ConnInfo, error) {
	resp, err := l.Call(req, limit)
	if err != nil {
		return nil, fmt.Errorf("%s in the guest: %w", req.Op, err)
	}
	return resp.Reports, nil
}

// askLater is ask in the background.
func (l lab) askLater(req script.Request) (wait func() ([]script.ConnInfo, error)) {
	var infos []script.ConnInfo
	done := later(func() (err error) {
		infos, err = l.ask(req)
		return err
	})
	return func() ([]script.ConnInfo, error) {
		err := done()
		return infos, err
	}
}

// serve has the guest serve a port; req lacks only the operation.
func (l lab) serve(t *testing.T, req script.Request) {
	t.Helper()
	req.Op = script.Listen
	if _, err := l.ask(req); err != nil {
		t.Fatal(err)
	}
}

func (l lab) listen(t *testing.T, seqpacket bool, port uint32) *net.UnixListener {
	t.Helper()
	if seqpacket {
		return l.ListenSeqpacket(t, port)
	}
	return l.Listen(t, port)
}

// dial connects to a guest's port. No wait on the connection is longer than limit.
func (l lab) dial(seqpacket bool, port uint32) (*net.UnixConn, error) {
	connect := l.Dial
	if seqpacket {
		connect = l.DialSeqpacket
	}
	c, err := vm.Insist(connect, port)
	if err == nil {
		err = c.SetDeadline(deadline())
	}
	return c, err
}

func (l lab) mustDial(t *testing.T, port uint32) *net.UnixConn {
	t.Helper()
	c, err := l.dial(false, port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
