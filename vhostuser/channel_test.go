package vhostuser_test

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// changeConfig makes the device's config space another one, and says so.
func (b *backend) changeConfig(cid byte) {
	b.t.Helper()
	b.do(func() {
		b.cid = cid
		b.server.ConfigChanged()
	})
}

// changes says n times that the config space changed, and returns how many
// requests the backend made of it.
func (b *backend) changes(n int) (requests int) {
	b.t.Helper()
	before := b.stats.BackendRequests.Load()
	b.do(func() {
		for range n {
			b.server.ConfigChanged()
		}
	})
	return int(b.stats.BackendRequests.Load() - before)
}

// wantConfigChange fails unless the backend's next request says that the config
// space changed, and is the last one.
func (b *backend) wantConfigChange(f *vhostusertest.Frontend) {
	b.t.Helper()
	if request, payload := f.Request(); request != vhostuser.BackendConfigChangeMsg || len(payload) != 0 {
		b.t.Fatalf("the backend's request %d has %d bytes", request, len(payload))
	}
	if f.Requested() {
		b.t.Fatal("the backend has a further request")
	}
}

// Each frontend with a channel is told, asks, and gets the new config space.
func TestConfigChanged(t *testing.T) {
	for _, peer := range vhostusertest.Peers {
		t.Run(peer.Name, func(t *testing.T) {
			b := newBackend(t)
			f := b.dial()
			guest := vhostusertest.NewGuest(t, vhostusertest.GuestOptions{})
			p := peer.New(f, guest)
			p.Init()
			p.Start()
			b.traffic(guest, "before it")
			b.changeConfig(4)
			if f.Channel() >= 0 {
				b.wantConfigChange(f)
			}
			if got := f.GetConfig(0, 8, 0); got[0] != 4 {
				t.Errorf("the config space is 0x%x", got)
			}
			b.traffic(guest, "after it")
			p.Shutdown()
			if err := b.waitEnd(); err != nil {
				t.Error(err)
			}
		})
	}
}

// While all rings stand still the frontend is told nothing unasked; once one runs
// again it is told what changed meanwhile.
func TestConfigChangedWhileSuspended(t *testing.T) {
	b := newBackend(t)
	f, _, peer := b.runningPeer()
	f.SetBackendReqFd()
	peer.Stop()
	f.Barrier()
	b.changeConfig(4)
	b.changeConfig(5)
	f.Barrier()
	if f.Requested() {
		t.Error("the frontend was told while the device was suspended")
	}
	peer.Resume()
	f.Barrier()
	b.wantConfigChange(f)
}

// A guest that boots reads the config space before its rings run.
func TestConfigChangedBeforeTheStart(t *testing.T) {
	b := newBackend(t)
	f := b.negotiated()
	f.SetBackendReqFd()
	f.Barrier()
	b.changeConfig(4)
	b.wantConfigChange(f)
}

// Frontends that cannot be told ask some time.
func TestConfigChangedInSilence(t *testing.T) {
	b := newBackend(t)
	b.changeConfig(4) // no session
	f := b.dial()
	f.SetProtocolFeatures(vhostuser.ProtocolBackendReq | vhostuser.ProtocolConfig)
	f.Barrier()
	b.changeConfig(5) // no channel yet, and no need to tell later
	f.SetBackendReqFd()
	f.Barrier()
	if f.Requested() {
		t.Error("told what GET_CONFIG tells")
	}
	for _, without := range []vhostuser.ProtocolFeatures{vhostuser.ProtocolBackendReq, vhostuser.ProtocolConfig} {
		f.SetProtocolFeatures(without)
		f.Barrier()
		b.changeConfig(6)
		if f.Requested() {
			t.Errorf("told with %v only", without)
		}
	}
}

// A frontend that does not read its channel costs nobody anything. It is told
// once more when it has read, and what it hears last is true.
func TestFullChannel(t *testing.T) {
	b := newBackend(t)
	f, guest, _ := b.runningPeer()
	f.SetBackendReqFd()
	f.Barrier()
	const changes = 2000
	told := b.changes(changes) + 1 // one is due
	b.traffic(guest, "beside it")
	if told >= changes {
		t.Fatalf("told %d times of %d changes", told, changes)
	}
	for range told { // nothing but room wakes the backend
		f.Request()
	}
	f.Barrier()
	if f.Requested() {
		t.Error("told once too often")
	}
	b.changeConfig(4)
	b.wantConfigChange(f)
}

// What a channel did not take goes to the one that replaces it, also what was on
// its way.
func TestReplacedChannel(t *testing.T) {
	b := newBackend(t)
	f, _, _ := b.runningPeer()
	f.SetBackendReqFd()
	f.Barrier()
	full := b.changes(2000) // one of them is on its way; another is due
	for range full + 1 {
		f.Request()
	}
	f.SetBackendReqFd()
	f.Barrier()
	if n := b.changes(full); n != full {
		t.Fatalf("%d changes are %d requests", full, n)
	}
	f.SetBackendReqFd()
	f.Barrier()
	b.wantConfigChange(f)
}

// What a frontend writes there is nobody's.
func TestChannelIsNotRead(t *testing.T) {
	b := newBackend(t)
	f, guest, _ := b.runningPeer()
	f.SetBackendReqFd()
	f.Barrier()
	fill(t, f.Channel())
	b.changeConfig(4)
	b.wantConfigChange(f)
	b.traffic(guest, "beside it")
}

// A channel whose other side is gone stays open, says nothing and costs nothing.
func TestDeadChannel(t *testing.T) {
	for _, c := range []struct {
		name string
		full bool
	}{{"empty", false}, {"full", true}} {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend(t)
			f, guest, _ := b.runningPeer()
			f.NeedReply = true
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			if f.Ack(vhostuser.MsgSetBackendReqFd, nil, pair[1]) != 0 {
				t.Fatal("refused")
			}
			unix.Close(pair[1])
			if c.full {
				b.changes(2000)
			}
			before := openFds()
			unix.Close(pair[0])
			b.changeConfig(4)
			b.traffic(guest, "beside it")
			b.do(func() {
				if b.server.ChannelPolled() {
					t.Error("the loop spins on a dead channel")
				}
			})
			if n := openFds(); n != before-1 {
				t.Errorf("%d descriptors before, %d after", before-1, n)
			}
			f.SetBackendReqFd()
			f.Barrier()
			for f.Requested() { // what was due goes here
				f.Request()
			}
			b.changeConfig(5)
			b.wantConfigChange(f)
		})
	}
}

// The channel stays open whatever is reset, for UML takes its end for the end of
// the device, and a new one replaces it.
func TestChannelStaysOpen(t *testing.T) {
	b := newBackend(t)
	f := b.negotiated()
	f.SetBackendReqFd()
	first, err := unix.FcntlInt(uintptr(f.Channel()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(first)
	f.ResetDevice()
	f.Barrier()
	if revents(first) != 0 {
		t.Error("the channel was closed or written to")
	}
	f.SetBackendReqFd()
	f.Barrier()
	if revents(first)&unix.POLLHUP == 0 {
		t.Error("the former channel is still open")
	}
	if revents(f.Channel()) != 0 {
		t.Error("the new channel was closed or written to")
	}
}

func revents(fd int) int16 {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	unix.Poll(fds, 0)
	return fds[0].Revents
}

// The requests' bytes, typed from the specification.
func TestGoldenRequests(t *testing.T) {
	b := newBackend(t, inBand)
	f, guest := b.inBandPeer()
	b.changeConfig(4)
	guest.Tx().ArmInterrupt()
	guest.Tx().Add(guest.Memory.Out([]byte("x")))
	guest.Tx().Publish()
	guest.Kick(tx)
	guest.Tx().SetAvailIdx(1000)
	guest.Kick(tx)
	want := []byte{
		2, 0, 0, 0, // VHOST_USER_BACKEND_CONFIG_CHANGE_MSG
		1, 0, 0, 0, // version 1
		0, 0, 0, 0, // no payload

		4, 0, 0, 0, // VHOST_USER_BACKEND_VRING_CALL
		1, 0, 0, 0, // version 1: no NEED_REPLY
		8, 0, 0, 0, // payload size
		1, 0, 0, 0, // ring
		0, 0, 0, 0,

		5, 0, 0, 0, // VHOST_USER_BACKEND_VRING_ERR
		1, 0, 0, 0, // version 1
		8, 0, 0, 0, // payload size
		1, 0, 0, 0, // ring
		0, 0, 0, 0,
	}
	got := make([]byte, len(want)+1)
	n, _, err := unix.Recvfrom(f.Channel(), got, unix.MSG_DONTWAIT)
	if err != nil || !bytes.Equal(got[:n], want) {
		t.Errorf("%v\n%x\nwant\n%x", err, got[:n], want)
	}
}
