package vhostuser_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// runningPeer returns a frontend that negotiated everything, and its guest,
// whose rings run.
func (b *backend) runningPeer() (*vhostusertest.Frontend, *vhostusertest.Guest, vhostusertest.Peer) {
	b.t.Helper()
	f, guest, peer := b.pausedPeer()
	peer.Resume()
	f.Barrier()
	b.events()
	return f, guest, peer
}

func TestByteDribble(t *testing.T) {
	for _, peer := range vhostusertest.Peers {
		t.Run(peer.Name, func(t *testing.T) {
			b := newBackend(t)
			f := b.dial()
			f.Piecewise = true
			guest := vhostusertest.NewGuest(t, vhostusertest.GuestOptions{})
			p := peer.New(f, guest)
			p.Init()
			p.Start()
			f.Barrier()
			b.traffic(guest, "in pieces")
			p.Shutdown()
			if err := b.waitEnd(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Two messages in one write, and the descriptor of the second must not be taken
// for the first's. The kernel would hand it over with the last bytes of the
// first if these were read together.
func TestCoalescedMessagesKeepTheirDescriptors(t *testing.T) {
	b := newBackend(t)
	f := b.negotiated()
	f.NeedReply = true
	f.SetOwner()
	call := eventfd(t)
	first := vhostusertest.Message(vhostuser.MsgSetOwner, vhostuser.FlagNeedReply, nil)
	second := vhostusertest.Message(vhostuser.MsgSetVringCall, vhostuser.FlagNeedReply, vhostusertest.U64(0))
	f.Write(first)
	f.Write(second, call)
	third := slices.Concat(first, first, first)
	f.Write(third)
	for _, request := range []vhostuser.Request{3, 13, 3, 3, 3} {
		if ack := f.Reply(request); !bytes.Equal(ack, make([]byte, 8)) {
			t.Errorf("%v is acknowledged with 0x%x", request, ack)
		}
	}
}

func TestShortHeader(t *testing.T) {
	b := newBackend(t)
	f := b.dial()
	f.Write([]byte{1, 0, 0, 0, 1})
	f.Close()
	b.waitFor("candidate gone", func() bool { return b.stats.CandidatesGone.Load() == 1 })
	b.expect()

	f = b.negotiated()
	f.Write([]byte{1, 0, 0, 0, 1})
	f.Close()
	b.endsWith(vhostuser.EndProtocol)
	b.works()
}

func TestEndInsideAPayload(t *testing.T) {
	b := newBackend(t)
	f, _, _ := b.runningPeer()
	m := vhostusertest.Message(vhostuser.MsgSetMemTable, 0, make([]byte, 72))
	f.Write(m[:40], memfd(t, 4096))
	f.Close()
	b.endsWith(vhostuser.EndProtocol)
	b.works()
}

func TestEndBetweenMessagesIsClean(t *testing.T) {
	b := newBackend(t)
	f, _, _ := b.runningPeer()
	f.Close()
	if err := b.waitEnd(); err != nil {
		t.Error(err)
	}
	if n := b.stats.SessionsEnded[vhostuser.EndClosed].Load(); n != 1 {
		t.Errorf("%d sessions ended in good order", n)
	}
	b.expect("stop 0", "stop 1", "stop 2", "detach")
}

// A frontend that is done sending still gets the replies that are due.
func TestHalfClosedConnection(t *testing.T) {
	b := newBackend(t)
	f := b.negotiated()
	for range 3 {
		f.Write(golden.getFeatures)
	}
	f.CloseWrite()
	for range 3 {
		f.Read(len(golden.getFeaturesReply))
	}
	f.WaitClosed()
	if err := b.waitEnd(); err != nil {
		t.Error(err)
	}
}

func TestNeedReplyWithoutTheFeature(t *testing.T) {
	b := newBackend(t)
	f := b.dial()
	f.Write(vhostusertest.Message(vhostuser.MsgSetOwner, vhostuser.FlagNeedReply, nil))
	f.Barrier() // the next reply is not an acknowledgement
}

// UML stores the features before it sends them and waits for the acknowledgement
// of the message that negotiates acknowledgements. The others do not.
func TestSetProtocolFeaturesIsAcknowledged(t *testing.T) {
	b := newBackend(t)
	f := b.dial()
	f.NeedReply = true
	f.SetProtocolFeatures(vhostuser.ProtocolReplyAck)
	f.NeedReply = false
	f.SetProtocolFeatures(vhostuser.ProtocolReplyAck)
	f.Barrier()
	f.NeedReply = true
	f.SetProtocolFeatures(0) // gives them up again
	f.Barrier()
}

func TestNeedReplyOnMessagesWithAReply(t *testing.T) {
	b := newBackend(t)
	f := b.negotiated()
	f.NeedReply = true
	if got := f.GetFeatures(); got != offered|vhostuser.FeatureProtocolFeatures|vhostuser.FeatureLogAll {
		t.Errorf("features 0x%x", got)
	}
	f.Barrier()
	if got := f.GetProtocolFeatures(); got != 0x8a22b {
		t.Errorf("protocol features %v", got)
	}
	f.Barrier()
	if got := f.GetQueueNum(); got != 3 {
		t.Errorf("%d queues", got)
	}
	f.Barrier()
	if got := f.GetMaxMemSlots(); got != 509 {
		t.Errorf("%d memory slots", got)
	}
	f.Barrier()
	f.GetVringBase(0)
	f.Barrier()
	f.GetConfig(0, 8, 0)
	f.Barrier()
}

func TestAckLeavesAfterTheEffect(t *testing.T) {
	b := newBackend(t)
	f, guest, _ := b.runningPeer()
	f.NeedReply = true
	guest.Tx().Add(guest.Memory.Out([]byte("last words")))
	guest.Tx().Publish() // without a kick
	f.SetVringEnable(tx, false)
	b.expect("stop 1")
	if got := b.taken(); !slices.Equal(got, []string{"last words"}) {
		t.Errorf("taken %q", got)
	}
	f.SetVringEnable(tx, true)
	b.expect("start 1")
	before := len(mappings())
	f.SetMemTable(guest.Regions(), guest.Fds(), 0)
	if n := len(mappings()); n != before {
		t.Errorf("%d mappings before the table was replaced, %d once that is acknowledged", before, n)
	}
	b.expect()
	b.traffic(guest, "in the new mapping")
	f.SetMemTable(nil, nil, 0)
	if n := len(mappings()); n != before-1 {
		t.Errorf("%d mappings, then %d when there is no memory", before, n)
	}
	b.expect("stop 0", "stop 1", "stop 2")
	f.SetMemTable(guest.Regions(), guest.Fds(), 0)
	b.expect("start 0", "start 1", "start 2")
	b.traffic(guest, "with memory again")
}

// A frontend that sends without ever reading is not heard until it reads, and
// then every reply is there, in order.
func TestRepliesNobodyReads(t *testing.T) {
	b := newBackend(t)
	f := b.negotiated()
	const n = 20_000
	sent := make(chan error, 1)
	go func() {
		for range n / 100 {
			m := vhostusertest.Message(vhostuser.MsgGetQueueNum, 0, nil)
			if err := f.TryWrite(bytes.Repeat(m, 100)); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	b.waitFor("replies pile up", func() bool { return b.stats.Messages.Load() > 100 })
	for range n {
		if got := f.Reply(vhostuser.MsgGetQueueNum); got[0] != 3 {
			t.Fatalf("reply 0x%x", got)
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	f.Barrier()
}

// A frontend that is killed in the middle of traffic.
func TestKilledUnderTraffic(t *testing.T) {
	b := newBackend(t)
	f, guest, _ := b.runningPeer()
	for range 100 {
		guest.Tx().Add(guest.Memory.Out([]byte("x")))
		guest.Tx().Kick()
	}
	f.Close()
	if err := b.waitEnd(); err != nil {
		t.Error(err)
	}
	if n := len(b.taken()); n != 100 {
		t.Errorf("%d of 100 chains were taken", n)
	}
	b.expect("stop 0", "stop 1", "stop 2", "detach")
	b.works()
}
