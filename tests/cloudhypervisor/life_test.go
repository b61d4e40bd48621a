package cloudhypervisor

import (
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// A machine's and a driver's reset end what was there before.
func TestBareMetalReset(t *testing.T) {
	onEach(t, func(t *testing.T, l lab) {
		for _, reset := range []func(){
			func() { l.Reset(t) },
			func() { l.tell(t, "reboot") },
			func() { l.tell(t, "restart") }, // of the driver alone
		} {
			old := []*net.UnixConn{l.dial(t, echo), l.dialled(t)}
			for _, c := range old {
				mustPing(t, c)
			}
			reset()
			l.AwaitBoot(t)
			for _, c := range old {
				mustEnd(t, c)
			}
			l.mustWork(t)
		}
	})
}

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

// A machine that is paused and resumed while bytes flow loses none of them.
func TestBareMetalPauses(t *testing.T) {
	const pauses, size = 5, 1 << 20
	onEach(t, func(t *testing.T, l lab) {
		idle := l.dialled(t)
		c := counted{l.dial(t, echo), new(atomic.Int64)}
		done := make(chan error, 1)
		go func() { done <- exchange(c, pattern(size)) }()
		for i := range int64(pauses) {
			vm.Eventually(t, limit, "the transfer goes on", func() bool {
				return c.received.Load() >= (i+1)*size/(pauses+1)
			})
			l.Stop(t)
			l.Continue(t)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		mustPing(t, idle)
		l.mustWork(t)
	})
}

// A paused machine keeps its connections and what was sent to it.
func TestBareMetalPaused(t *testing.T) {
	onEach(t, func(t *testing.T, l lab) {
		c := l.dial(t, echo)
		l.Stop(t)
		say(t, c, "meanwhile")
		if fresh, err := l.Dial(echo); err == nil {
			fresh.Close()
			t.Error("a paused guest accepted a connection")
		}
		l.Continue(t)
		got := make([]byte, len("meanwhile"))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "meanwhile" {
			t.Errorf("after the pause: %q, %v", got, err)
		}
		l.mustWork(t)
	})
}
