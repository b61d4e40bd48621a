package vhostuser_test

import (
	"bytes"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

const (
	save     = vhostuser.TransferSave
	load     = vhostuser.TransferLoad
	stopped  = vhostuser.TransferStopped
	accepted = vhostusertest.TransferAccepted
	refusal  = accepted | 1
)

// cloud-hypervisor's snapshot: the guest may go on, and may come back in another
// process, with the state it had.
func TestSnapshotAndRestore(t *testing.T) {
	b, other := newBackend(t), newBackend(t)
	for _, size := range []int{0, 1, 1000, 300_000, vhostuser.MaxState} { // a socket takes some 200,000 bytes
		b.do(func() { b.state = bytes.Repeat([]byte{7}, size) })
		guest := vhostusertest.NewGuest(t, vhostusertest.GuestOptions{})
		ch := vhostusertest.NewCloudHypervisor(b.dial(), guest)
		ch.Init()
		ch.Start()
		b.traffic(guest, "before it")
		ch.Barrier()
		b.events()

		state, bases := ch.Snapshot()
		if want := bytes.Repeat([]byte{7}, size); !bytes.Equal(state, want) {
			t.Fatalf("%d bytes were saved, not %d", len(state), size)
		}
		b.expect("stop 0", "stop 1", "stop 2", "save")
		ch.Continue(bases)
		b.expect("start 0", "start 1", "start 2")
		b.traffic(guest, "after it")
		state, bases = ch.Snapshot()
		ch.Close()
		b.waitEnd()
		b.events()

		ch.Restore(other.dial(), state, bases)
		other.expect("attach", "load", "negotiated", "inherit", "start 0", "start 1", "start 2")
		other.do(func() {
			if !bytes.Equal(other.state, state) {
				t.Errorf("%d bytes were loaded, not %d", len(other.state), len(state))
			}
		})
		other.traffic(guest, "restored")
		ch.Shutdown()
		other.waitEnd()
		other.events()
	}
	for _, c := range []struct {
		name      string
		got, want uint64
	}{
		{"saved", b.stats.StatesSaved.Load(), 10},
		{"loaded", other.stats.StatesLoaded.Load(), 5},
		{"failed", b.stats.StateErrors.Load() + other.stats.StateErrors.Load(), 0},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d transfers, want %d", c.name, c.got, c.want)
		}
	}
}

// crosvm and QEMU use pipes.
func TestTransferThroughPipes(t *testing.T) {
	b := newBackend(t)
	f := b.negotiated()
	want := []byte(strings.Repeat("state", 50_000)) // more than a pipe takes
	b.do(func() { b.state = want })
	r, w := osPipe(t)
	if code := f.SetDeviceStateFd(save, stopped, int(w.Fd())); code != accepted {
		t.Fatalf("answered with 0x%x", code)
	}
	w.Close()
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if code := f.CheckDeviceState(); code != 0 {
		t.Errorf("saved with %d", code)
	}
	b.do(func() { b.state = nil })

	r, w = osPipe(t)
	if code := f.SetDeviceStateFd(load, stopped, int(r.Fd())); code != accepted {
		t.Fatalf("answered with 0x%x", code)
	}
	r.Close()
	if _, err := w.Write(got); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if code := f.CheckDeviceState(); code != 0 {
		t.Errorf("loaded with %d", code)
	}
	b.do(func() {
		if !bytes.Equal(b.state, want) {
			t.Errorf("%d bytes were loaded", len(b.state))
		}
	})
}

func osPipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// Requests that begin no transfer are answered so, and nothing else happens.
func TestTransferRefused(t *testing.T) {
	for _, c := range []struct {
		name             string
		direction, phase uint32
		fds              []int
	}{
		{"direction 2", 2, stopped, []int{eventfd(t)}},
		{"phase 1", save, 1, []int{eventfd(t)}},
		{"no descriptor", load, stopped, nil},
		{"file", save, stopped, []int{memfd(t, 10)}},
		{"file to load", load, stopped, []int{memfd(t, 10)}},
		{"directory", load, stopped, []int{directory(t)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend(t)
			f, guest, peer := b.pausedPeer()
			before := openFds()
			if code := f.SetDeviceStateFd(c.direction, c.phase, c.fds...); code != refusal {
				t.Errorf("answered with 0x%x", code)
			}
			if n := openFds(); n != before {
				t.Errorf("%d descriptors before, %d after", before, n)
			}
			if f.CheckDeviceState() == 0 {
				t.Error("a transfer that never was succeeded")
			}
			peer.Resume()
			f.Barrier()
			b.expect("start 0", "start 1", "start 2")
			b.traffic(guest, "after it")
			if n := b.stats.Malformed.Load(); n != 2 {
				t.Errorf("%d messages are counted as malformed", n)
			}
		})
	}
}

// While a ring runs there is no state to take, and no place for one.
func TestTransferWhileRunning(t *testing.T) {
	b := newBackend(t)
	f, guest, peer := b.runningPeer()
	for _, direction := range []uint32{save, load} {
		if code := f.SetDeviceStateFd(direction, stopped, pipe(t)[direction^1]); code != refusal {
			t.Errorf("answered with 0x%x", code)
		}
	}
	// Nor if it starts while the state is on its way.
	peer.Stop()
	r, w := osPipe(t)
	if code := f.SetDeviceStateFd(load, stopped, int(r.Fd())); code != accepted {
		t.Fatalf("answered with 0x%x", code)
	}
	peer.Resume()
	f.Barrier()
	r.Close()
	w.Close()
	if f.CheckDeviceState() == 0 {
		t.Error("loaded while rings ran")
	}
	b.traffic(guest, "after it")
}

// A state that is loaded where rings have run is another driver's, wherever they
// stopped: that driver goes on, until it says that it begins anew.
func TestLoadReplacesTheDriver(t *testing.T) {
	r := newRaw(t)
	r.setup(rx, 0)
	r.setup(tx, 0)
	r.enable(true, rx, tx)
	r.use(rx, 3)
	r.use(tx, 5)
	r.enable(false, rx, tx)
	if code := r.LoadState([]byte("another driver's")); code != 0 {
		t.Fatalf("loaded with %d", code)
	}
	r.events()
	for i := range r.rings {
		r.fresh(i)
		r.rings[i].SetUsedIdx(7)
	}
	r.setup(rx, 7)
	r.setup(tx, 7)
	r.enable(true, rx)
	r.expect("inherit", "start 0")
	r.enable(true, tx)
	r.expect("start 1")
}

// The driver of a state that is loaded may have taken other features than the one
// before it: it has lost nothing by that.
func TestLoadBringsOtherFeatures(t *testing.T) {
	r := newRaw(t)
	r.setup(tx, 0)
	r.enable(true, tx)
	r.use(tx, 5)
	r.enable(false, tx)
	if code := r.LoadState([]byte("another driver's")); code != 0 {
		t.Fatalf("loaded with %d", code)
	}
	r.events()
	const features = offered | vhostuser.FeatureProtocolFeatures
	r.SetFeatures(features &^ vhostuser.FeatureIndirectDesc)
	r.expect("negotiated")
	r.setup(tx, 5)
	r.enable(true, tx)
	r.expect("inherit", "start 1")
	r.SetFeatures(features)
	r.expect("stop 1", "reset", "negotiated", "start 1")
}

// A driver that begins anew loses a state that was loaded, too.
func TestResetDeviceAfterLoad(t *testing.T) {
	b := newBackend(t)
	f := b.negotiated()
	f.NeedReply = true
	if code := f.LoadState([]byte("state")); code != 0 {
		t.Fatalf("loaded with %d", code)
	}
	f.ResetDevice()
	f.ResetDevice()
	b.expect("attach", "negotiated", "load", "reset")
}

// A transfer's outcome is told once, and is that of the latest.
func TestTransferOutcome(t *testing.T) {
	b := newBackend(t)
	f := b.negotiated()
	if f.CheckDeviceState() == 0 {
		t.Error("a transfer that never was succeeded")
	}
	if f.LoadState([]byte("\x00 is no state")) == 0 {
		t.Error("garbage was loaded")
	}
	if f.CheckDeviceState() == 0 {
		t.Error("the outcome was told twice")
	}
	if f.LoadState(bytes.Repeat([]byte{1}, vhostuser.MaxState)) != 0 {
		t.Error("the largest state was refused")
	}
	f.SaveState()
	b.wantLog("info: session begins",
		"warning: message refused map[error:CHECK_DEVICE_STATE: there was no state transfer",
		"warning: device state was not transferred map[error:garbage load:true",
		"warning: message refused map[error:CHECK_DEVICE_STATE: there was no state transfer")
}

// More than any state is not read to its end.
func TestTransferTooMuch(t *testing.T) {
	b := newBackend(t)
	f := b.negotiated()
	r, w := osPipe(t)
	if code := f.SetDeviceStateFd(load, stopped, int(r.Fd())); code != accepted {
		t.Fatalf("answered with 0x%x", code)
	}
	r.Close()
	piece := bytes.Repeat([]byte{1}, 1<<16)
	written := 0
	for {
		n, err := w.Write(piece)
		written += n
		if err != nil {
			break // nobody reads any more
		}
	}
	if written < vhostuser.MaxState || written > vhostuser.MaxState+1<<20 {
		t.Errorf("%d bytes were taken", written)
	}
	if f.CheckDeviceState() == 0 {
		t.Error("success")
	}
	b.do(func() {
		if b.state != nil {
			t.Error("something was loaded")
		}
	})
}

// A frontend that never ends its side waits for the outcome until the deadline.
// The loop, the other messages and the other frontends do not.
func TestTransferThatNeverEnds(t *testing.T) {
	for _, c := range []struct {
		name      string
		direction uint32
		fd        func(t *testing.T) int
	}{
		{"pipe that is not closed", load, func(t *testing.T) int { return pipe(t)[0] }},
		{"pipe that is not read", save, func(t *testing.T) int { return pipe(t)[1] }},
		{"eventfd to load", load, eventfdOf},
		{"epoll to load", load, epollOf},
		{"listening socket to load", load, listeningOf},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend(t)
			b.do(func() { b.state = make([]byte, 1<<17) })
			f := b.negotiated()
			before := openFds()
			fd := c.fd(t)
			ours := openFds() - before
			if code := f.SetDeviceStateFd(c.direction, stopped, fd); code != accepted {
				t.Fatalf("answered with 0x%x", code)
			}
			if code := f.SetDeviceStateFd(save, stopped, pipe(t)[1]); code != refusal {
				t.Errorf("a second one is answered with 0x%x", code)
			}
			f.Barrier()
			f.Write(vhostusertest.Message(vhostuser.MsgCheckDeviceState, 0, nil))
			f.Write(vhostusertest.Message(vhostuser.MsgGetQueueNum, 0, nil))
			b.waitFor("the frontend waits", func() bool { return b.server.Waits() })
			b.do(func() {
				at, ok := b.server.Deadline()
				if now := b.loop.Now(); !ok || at <= now || at > now+10e9 {
					t.Errorf("the deadline is in %v, %v", at-now, ok)
				}
				b.server.Expire(at - 1)
				if !b.server.Waits() {
					t.Error("ended before its deadline")
				}
				b.server.Expire(at)
			})
			if code := f.Reply(vhostuser.MsgCheckDeviceState)[0]; code == 0 {
				t.Error("success")
			}
			f.Reply(vhostuser.MsgGetQueueNum) // behind it, in order
			if n := openFds(); n != before+ours+2 {
				t.Errorf("%d descriptors before, %d after", before+ours+2, n)
			}
		})
	}
}

func eventfdOf(t *testing.T) int { return eventfd(t) }

func epollOf(t *testing.T) int {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func listeningOf(t *testing.T) int {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrUnix{}); err != nil { // an abstract name
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	return fd
}

// The reader of a save leaves before it has read all.
func TestTransferReaderLeaves(t *testing.T) {
	b := newBackend(t)
	b.do(func() { b.state = make([]byte, 1<<18) })
	f := b.negotiated()
	r, w := osPipe(t)
	if code := f.SetDeviceStateFd(save, stopped, int(w.Fd())); code != accepted {
		t.Fatalf("answered with 0x%x", code)
	}
	w.Close()
	io.ReadFull(r, make([]byte, 1000))
	r.Close()
	if f.CheckDeviceState() == 0 {
		t.Error("success")
	}
}

// The frontend leaves in the middle of a transfer: it is gone at once, and
// nothing is left of either.
func TestTransferEndsWithTheSession(t *testing.T) {
	for _, c := range []struct {
		name   string
		leave  func(f *vhostusertest.Frontend, b *backend)
		reason vhostuser.EndReason
	}{
		{"idle", func(f *vhostusertest.Frontend, _ *backend) { f.Close() }, vhostuser.EndClosed},
		{"waiting for the outcome", func(f *vhostusertest.Frontend, b *backend) {
			f.Write(vhostusertest.Message(vhostuser.MsgCheckDeviceState, 0, nil))
			b.waitFor("the frontend waits", func() bool { return b.server.Waits() })
			f.Close()
		}, vhostuser.EndClosed},
		{"with a message that ends it", func(f *vhostusertest.Frontend, b *backend) {
			f.Tell(4711, nil)
			f.WaitClosed()
		}, vhostuser.EndProtocol},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend(t)
			f := b.negotiated()
			before := openFds()
			p := pipe(t)
			if code := f.SetDeviceStateFd(load, stopped, p[0]); code != accepted {
				t.Fatalf("answered with 0x%x", code)
			}
			c.leave(f, b)
			b.waitEnd()
			if n := b.stats.SessionsEnded[c.reason].Load(); n != 1 {
				t.Errorf("%d sessions ended as %v", n, c.reason)
			}
			if n := openFds(); n > before+2 {
				t.Errorf("%d descriptors before, %d after", before+2, n)
			}
			if log := b.events(); slices.Contains(log, "load") {
				t.Errorf("the device saw %v", log)
			}
			b.works()
		})
	}
}
