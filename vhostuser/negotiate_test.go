package vhostuser_test

import (
	"bytes"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

func TestFeaturesThatWereNotOffered(t *testing.T) {
	b := newBackend(t)
	f := b.dial()
	f.SetFeatures(^vhostuser.FeatureRingPacked)
	f.Barrier()
	b.expect("attach", "negotiated") // the device would have recorded others
	// Whoever lays rings out in another way cannot be served.
	f.SetFeatures(^uint64(0))
	f.WaitClosed()
	b.endsWith(vhostuser.EndProtocol)
}

// Rings that were laid out with other features cannot go on.
func TestFeaturesChangeWhileRunning(t *testing.T) {
	b := newBackend(t)
	f, _, _ := b.runningPeer()
	f.NeedReply = true
	const all = offered | vhostuser.FeatureProtocolFeatures
	f.SetFeatures(all)
	b.expect()
	f.SetFeatures(all | vhostuser.FeatureLogAll) // begins a migration
	b.expect()
	f.SetFeatures(all)
	b.expect()
	f.SetFeatures(all &^ vhostuser.FeatureEventIdx)
	b.expect("stop 0", "stop 1", "stop 2", "reset", "negotiated", "start 0", "start 1", "start 2")
}

func TestProtocolFeaturesChangeWhileRunning(t *testing.T) {
	b := newBackend(t)
	f, guest, _ := b.runningPeer()
	f.SetProtocolFeatures(vhostuser.ProtocolReplyAck)
	b.traffic(guest, "with fewer")
	if f.Ack(vhostuser.MsgResetDevice, nil) == 0 {
		t.Error("a message of a feature that was given up worked")
	}
	f.SetProtocolFeatures(f.GetProtocolFeatures())
	b.traffic(guest, "with all of them")
	b.expect()
}

// Messages whose feature was not negotiated.
func TestFeatureGates(t *testing.T) {
	for _, m := range []bad{
		{"queue num", vhostuser.MsgGetQueueNum, nil, nil},
		{"config", vhostuser.MsgGetConfig, make([]byte, 12), nil},
		{"set config", vhostuser.MsgSetConfig, make([]byte, 12), nil},
		{"slots", vhostuser.MsgGetMaxMemSlots, nil, nil},
		{"add", vhostuser.MsgAddMemReg, make([]byte, 40), []int{0}},
		{"rem", vhostuser.MsgRemMemReg, make([]byte, 40), nil},
		{"reset", vhostuser.MsgResetDevice, nil, nil},
		{"backend req", vhostuser.MsgSetBackendReqFd, nil, []int{0}},
		{"log base", vhostuser.MsgSetLogBase, make([]byte, 16), []int{0}},
		{"log base of a number", vhostuser.MsgSetLogBase, make([]byte, 8), nil},
		{"log fd", vhostuser.MsgSetLogFd, nil, []int{0}},
		{"device state", vhostuser.MsgSetDeviceStateFd, make([]byte, 8), []int{0}},
		{"check device state", vhostuser.MsgCheckDeviceState, nil, nil},
		{"kick", vhostuser.MsgVringKick, make([]byte, 8), nil},
	} {
		t.Run(m.name, func(t *testing.T) {
			b := newBackend(t)
			f := b.dial()
			f.Tell(m.request, m.payload, m.fds...)
			f.WaitClosed()
			b.endsWith(vhostuser.EndProtocol)
		})
	}
}

func TestConfig(t *testing.T) {
	b := newBackend(t)
	f := b.negotiated()
	zeros := make([]byte, 4096)
	for _, c := range []struct {
		offset, size, flags uint32
		want                []byte
	}{
		{0, 8, 0, []byte{3, 0, 0, 0, 0, 0, 0, 0}},
		{0, 8, 1, []byte{3, 0, 0, 0, 0, 0, 0, 0}},
		{0, 1, 0, []byte{3}},
		{0, 0, 0, nil},
		{1, 2, 0, zeros[:2]},
		{4, 4, 0, zeros[:4]},
		{4, 8, 0, zeros[:8]},
		{252, 4, 0, zeros[:4]},
		{0, 256, 0, append([]byte{3}, zeros[:255]...)},
		{4096, 0, 0, nil},
		{4095, 1, 0, zeros[:1]},
		{12, 4084, 0, zeros[:4084]},
	} {
		if got := f.GetConfig(c.offset, c.size, c.flags); !bytes.Equal(got, c.want) {
			t.Errorf("%d bytes at %d: 0x%x", c.size, c.offset, got)
		}
	}
	// An answer of size 0 says that it failed. It must not end the session:
	// whoever passes on what a guest reads would lose the guest.
	for _, c := range []struct {
		name    string
		space   vhostuser.ConfigSpace
		payload int
	}{
		{"far away", vhostuser.ConfigSpace{Offset: ^uint32(0), Size: ^uint32(0)}, 0},
		{"beyond the end", vhostuser.ConfigSpace{Offset: 4090, Size: 8}, 8},
		{"wraps", vhostuser.ConfigSpace{Offset: ^uint32(3), Size: 8}, 8},
		{"payload missing", vhostuser.ConfigSpace{Size: 8}, 0},
		{"payload short", vhostuser.ConfigSpace{Size: 8}, 7},
		{"payload long", vhostuser.ConfigSpace{Size: 8}, 9},
	} {
		payload := append(c.space.AppendTo(nil), make([]byte, c.payload)...)
		f.Write(vhostusertest.Message(vhostuser.MsgGetConfig, 0, payload))
		got := f.Reply(vhostuser.MsgGetConfig)
		if len(got) != 12 || vhostuser.ParseConfigSpace(got).Size != 0 {
			t.Errorf("%s: reply 0x%x", c.name, got)
		}
	}
	f.NeedReply = true
	f.SetConfig(0, 0, []byte{9, 9, 9, 9, 9, 9, 9, 9})
	f.SetConfig(0, 1, []byte{9})
	f.SetConfig(250, 0, make([]byte, 100))
	if got := f.GetConfig(0, 8, 0); got[0] != 3 {
		t.Errorf("the config space was overwritten: 0x%x", got)
	}
}

func TestOwner(t *testing.T) {
	b := newBackend(t)
	f, guest, _ := b.runningPeer()
	f.NeedReply = true
	f.SetOwner()
	f.SetOwner()
	f.ResetOwner()
	b.expect()
	b.traffic(guest, "nobody's")
}

func TestResetDeviceStorm(t *testing.T) {
	b := newBackend(t)
	f, guest, peer := b.runningPeer()
	f.NeedReply = true
	for range 50 {
		guest.Tx().Add(guest.Memory.Out([]byte("x")))
		guest.Tx().Kick()
		f.ResetDevice()
		f.ResetDevice()
		b.expect("stop 0", "stop 1", "stop 2", "reset")
		peer.Start()
		b.expect("negotiated", "start 0", "start 1", "start 2")
		b.taken()
		b.traffic(guest, "again")
	}
}

func TestResetDeviceBeforeAnything(t *testing.T) {
	b := newBackend(t)
	f := b.negotiated()
	f.NeedReply = true
	f.ResetDevice()
	b.expect("attach", "negotiated")
}

// What RESET_DEVICE keeps: memory, protocol features, call and err descriptors.
func TestResetDeviceKeepsTheFrontendsPart(t *testing.T) {
	b := newBackend(t)
	f, guest, _ := b.runningPeer()
	f.NeedReply = true
	before := openFds()
	f.ResetDevice() // acknowledged: REPLY_ACK is still there
	if n := openFds(); n != before-3 {
		t.Errorf("%d descriptors were closed, not the three kick descriptors", before-n)
	}
	if got := f.GetVringBase(tx); got != 0 {
		t.Errorf("base %d", got)
	}
	f.SetFeatures(offered | vhostuser.FeatureProtocolFeatures)
	c := guest.Tx().Config()
	f.SetVringNum(tx, uint32(c.Size))
	f.SetVringAddr(vhostuser.VringAddr{
		Index: tx,
		Desc:  virtqueuetest.UserAddr(c.Desc), Avail: virtqueuetest.UserAddr(c.Avail), Used: virtqueuetest.UserAddr(c.Used),
	})
}
