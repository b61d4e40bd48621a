package muxer_test

import (
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
)

// drain begins a drain and returns a channel that its end closes.
func (v *vm) drain() <-chan struct{} {
	v.t.Helper()
	drained := make(chan struct{})
	v.do(func() { v.m.Drain(func() { close(drained) }) })
	return drained
}

// wantOpen fails the test if the drain has ended.
func (v *vm) wantOpen(drained <-chan struct{}) {
	v.t.Helper()
	for range 2 { // it ends behind calls
		v.do(func() {})
	}
	select {
	case <-drained:
		v.t.Fatal("the drain has ended")
	default:
	}
}

func (v *vm) wantDrained(drained <-chan struct{}) {
	v.t.Helper()
	v.eventually("the end of the drain", func() bool {
		select {
		case <-drained:
			return true
		default:
			return false
		}
	})
}

// What is there goes on to its end, bytes for a program that reads late included.
// Nothing new begins, from either side.
func TestDrainLetsConnectionsRunOn(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{clock: func() time.Duration { return time.Hour }}) // no deadline comes
	d, p := v.driver, v.listen(52)
	s := v.open(p, 1000, 52)
	drained := v.drain()

	d.Send(d.Header(1001, 52, csm.OpRequest), nil)
	d.ExpectFor(1001, 52, csm.OpRST)
	v.count("REQUEST", &v.stats.Resets[muxer.ResetDraining], 1)
	v.client("CONNECT 52\npayload").wantEOF()
	v.count("CONNECT", &v.stats.Handshakes[muxer.HandshakeDraining], 1)

	s.send([]byte("to the guest"))
	if p := d.ExpectFor(1000, 52, csm.OpRW); string(p.Payload) != "to the guest" {
		t.Errorf("the guest reads %q", p.Payload)
	}
	v.connect() // says nothing, and is none to wait for
	data := v.fill(1000, 52)
	d.Send(d.Header(1000, 52, csm.OpRST), nil)
	v.eventually("a tail", func() bool { return v.stats.Tails.Load() == 1 })
	v.wantOpen(drained)
	s.want(data)
	s.wantEOF()
	v.wantDrained(drained)
}

// Who is not connected yet is let go, wherever it waits.
func TestDrainLetsGoWhoWaits(t *testing.T) {
	t.Parallel()
	v := newWaitingVM(t, options{})
	d := v.driver
	asks := v.client("CONNECT 60\n")
	asked := d.Expect(csm.OpRequest)
	held := v.client("CONNECT 60\n")
	v.waits(2)
	v.fullBacklog(53)
	d.Send(d.Header(1000, 53, csm.OpRequest), nil)
	v.eventually("a dial", func() bool { return v.stats.Dials.Load() == 1 })

	drained := v.drain()
	held.wantEOF()
	d.ExpectFor(1000, 53, csm.OpRST)
	v.wantOpen(drained) // the guest has yet to answer
	d.Send(d.Header(60, asked.SrcPort, csm.OpRST), nil)
	asks.wantEOF() // and does not wait for another answer
	v.wantDrained(drained)
	v.handshakes(map[muxer.Handshake]uint64{muxer.HandshakeDraining: 2})
	v.count("REQUEST", &v.stats.Resets[muxer.ResetDraining], 1)
	v.idle()
}

// A CONNECT that the guest accepts while the VM drains was there before.
func TestDrainAwaitsTheGuestsAnswer(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	d := v.driver
	s := v.client("CONNECT 60\n")
	asked := d.Expect(csm.OpRequest)
	drained := v.drain()
	d.Send(d.Header(60, asked.SrcPort, csm.OpResponse), nil)
	s.wantOK()
	v.wantOpen(drained)
	d.Send(d.Header(60, asked.SrcPort, csm.OpRST), nil)
	s.wantEOF()
	v.wantDrained(drained)
}

// Without a driver, and without receive buffers, a REQUEST has not left: nobody
// waits until it has.
func TestDrainForgetsWhatIsUnasked(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{driver: muxertest.Options{Buffers: -1}})
	unasked := v.client("CONNECT 60\n")
	v.eventually("a REQUEST is due", func() bool {
		return v.stats.Connections[muxer.PhaseConnecting][muxer.HostInitiated].Load() == 1
	})
	drained := v.drain()
	unasked.wantEOF()
	v.wantDrained(drained)
	v.count("CONNECT", &v.stats.Handshakes[muxer.HandshakeDraining], 1)
}
