package tests

import (
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// counted is a connection that tells how much it brought so far.
type counted struct {
	*net.UnixConn
	received *atomic.Int64
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.UnixConn.Read(b)
	c.received.Add(int64(n))
	return n, err
}

// A machine that stops and goes on, again and again while bytes flow both ways, loses
// none of them.
func TestMachineStopsAndContinues(t *testing.T) {
	const stops, size = 5, 24 * mib
	onEach(t, emulators, func(t *testing.T, m machine) {
		l := newLab(t, m)
		port := l.serve(t, script.Step{Do: script.Duplex, Bytes: size, Seed: 15})
		c := counted{l.dial(t, port), new(atomic.Int64)}
		transfer := background(func() script.Report {
			return script.Run(c, []script.Step{{Do: script.Duplex, Bytes: size, Seed: 16}}, nil)
		})
		for i := range int64(stops) {
			vm.Eventually(t, limit, "the transfer goes on", func() bool {
				return c.received.Load() >= (i+1)*size/(stops+1)
			})
			l.Stop(t)
			l.Continue(t)
		}
		mustAgree(t, transfer(), l.reports(t, port, 1)[0].Report)
		l.mustWork(t)
	})
}

// While the machine stands still a new client waits for its OK, though not for ever,
// and an old connection is neither ended nor drained.
func TestMachineStandsStill(t *testing.T) {
	const patience = 2 * time.Second // the daemon's for a CONNECT line's answer
	onEach(t, emulators, func(t *testing.T, m machine) {
		l := newLab(t, m)
		port := l.serve(t, script.Step{Do: script.Echo})
		old := l.dial(t, port)
		l.Stop(t)
		if _, err := io.WriteString(old, "still there?"); err != nil {
			t.Errorf("old connection: %v", err)
		}
		begin := time.Now()
		if c, err := l.Dial(port); err == nil {
			c.Close()
			t.Error("a stopped guest accepted a connection")
		}
		if took := time.Since(begin); took > 2*patience {
			t.Errorf("a new client waited %v for its end", took)
		}
		l.Continue(t)
		old.CloseWrite()
		if got, err := io.ReadAll(old); err != nil || string(got) != "still there?" {
			t.Errorf("old connection: got %q, %v", got, err)
		}
		l.mustWork(t)
	})
}

func TestMachineResetUnderLoad(t *testing.T) {
	onEach(t, emulators, func(t *testing.T, m machine) {
		l := newLab(t, m)
		for range 2 {
			load := l.load(t)
			l.Reset(t)
			l.AwaitBoot(t)
			load.mustEnd(t)
			l.mustWork(t)
		}
	})
}
