package muxer_test

import (
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
)

// ports are a connection's, the guest's first.
type ports struct{ guest, host uint32 }

// wantResets takes n RSTs and returns whose they are.
func (v *vm) wantResets(n int) map[ports]bool {
	v.t.Helper()
	got := make(map[ports]bool)
	for range n {
		p := v.driver.Expect(csm.OpRST)
		got[ports{p.DstPort, p.SrcPort}] = true
	}
	if len(got) != n {
		v.t.Fatalf("%d RSTs for %d connections", n, len(got))
	}
	return got
}

// A driver that goes on without an event ring gets an RST for every connection
// that it believes in, whatever state it is in, and then new ones.
func TestLostConnectionsAreReset(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	p, d := v.listen(52), v.driver
	s := v.open(p, 1000, 52)
	asked := v.client("CONNECT 53\n")
	q := d.Expect(csm.OpRequest)
	shut := v.open(p, 1001, 52)
	shut.Close()
	d.ExpectFor(1001, 52, csm.OpShutdown)
	v.endSession()
	s.wantEOF()
	asked.wantEOF()
	v.idle()

	v.do(v.m.Attach)
	client := v.client("CONNECT 1234\n")
	v.eventually("the client waits", func() bool { return v.stats.Clients.Load() == 1 })
	v.do(func() { v.m.Inherit(); v.startAll() })
	got := v.wantResets(3)
	for _, k := range []ports{{1000, 52}, {1001, 52}, {53, q.SrcPort}} {
		if !got[k] {
			t.Errorf("no RST for %v", k)
		}
	}
	if n := v.stats.Resets[muxer.ResetLost].Load(); n != 3 {
		t.Errorf("%d resets are counted", n)
	}
	q = d.Expect(csm.OpRequest)
	d.Send(d.Header(1234, q.SrcPort, csm.OpResponse), nil)
	client.wantOK()
	v.open(p, 1000, 52)
	if got := d.Barrier(); len(got) != 0 {
		t.Errorf("received %v", got)
	}
}

// A driver that begins anew knows of nothing and hears of nothing; nor does one
// that goes on from there.
func TestLossesEndWithTheirDriver(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(v *vm){
		"a session without Inherit": func(v *vm) { v.do(func() { v.m.Attach(); v.startAll() }) },
		"Reset":                     func(v *vm) { v.do(func() { v.m.Attach(); v.m.Reset(); v.m.Inherit(); v.startAll() }) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVM(t, options{})
			p := v.listen(52)
			v.open(p, 1000, 52)
			v.endSession()
			begin(v)
			v.open(p, 1001, 52)
			v.endSession()
			v.newSession()
			if got := v.wantResets(1); !got[ports{1001, 52}] {
				t.Errorf("RST for %v", got)
			}
			if got := v.driver.Barrier(); len(got) != 0 {
				t.Errorf("received %v", got)
			}
		})
	}
}

// A session in which no driver came up forgets nothing.
func TestLossesOutliveAnEmptySession(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	v.open(v.listen(52), 1000, 52)
	v.endSession()
	v.do(func() { v.m.Attach(); v.m.Inherit(); v.start(0); v.m.StopQueue(0); v.m.Detach() })
	v.newSession()
	v.wantResets(1)
}

// An RST that was due when the session ended is due still.
func TestOwedResetOutlivesTheSession(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{driver: muxertest.Options{Buffers: -1}})
	d := v.driver
	for port := range uint32(3) {
		d.Send(d.Header(1000+port, 52, csm.OpRequest), nil) // nobody listens
	}
	h := d.Header(2000, 52, csm.OpRequest)
	h.DstCID = 7 // nobody there at all: such an RST has another source
	d.Send(h, nil)
	v.count("refused", &v.stats.Resets[muxer.ResetRefused], 3)
	v.count("no such peer", &v.stats.Resets[muxer.ResetCID], 1)
	v.endSession()
	v.newSession()
	d.PostBuffers(8)
	v.wantResets(3)
	if got := d.Barrier(); len(got) != 0 {
		t.Errorf("received %v", got)
	}
}

// A thousand RSTs that find no receive buffer wait a few at a time, and the tx ring
// does not wait for them.
func TestManyLostConnections(t *testing.T) {
	t.Parallel()
	const n = 1000
	v := newVM(t, options{ringSize: 1024, driver: muxertest.Options{Buffers: -1}})
	p, d := v.listen(52), v.driver
	d.PostBuffers(n)
	for port := range uint32(n) {
		v.open(p, 1000+port, 52)
	}
	v.endSession()
	v.newSession()
	v.count("RSTs wait", &v.stats.Resets[muxer.ResetLost], 128)
	d.Send(d.Header(1, 1, csm.OpRST), nil)
	if !d.WaitTx(patience) {
		t.Fatal("the tx ring waits")
	}
	if got := v.stats.Resets[muxer.ResetLost].Load(); got != 128 {
		t.Errorf("%d RSTs wait", got)
	}
	d.PostBuffers(n)
	v.wantResets(n)
}

// A lost tuple that the driver uses again is one of its own: whatever it says is
// answered in place of the RST.
func TestDriverSpeaksOfLostConnections(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	p, d := v.listen(52), v.driver
	for port := range uint32(4) {
		v.open(p, 1000+port, 52)
	}
	v.endSession()
	d.Add(d.Header(1000, 52, csm.OpRequest), nil)
	d.Add(d.Header(1001, 52, csm.OpRST), nil)
	d.Add(d.Header(1002, 52, csm.OpRW), []byte("x"))
	v.newSession()
	d.Kick()
	d.ExpectFor(1002, 52, csm.OpRST) // at once
	d.ExpectFor(1003, 52, csm.OpRST)
	d.ExpectFor(1000, 52, csm.OpResponse)
	if got := d.Barrier(); len(got) != 0 {
		t.Errorf("received %v", got)
	}
}

// Time does not pass for a paused guest: its event ring is as late after a pause.
func TestPatienceStandsStillInAPause(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{events: true})
	v.open(v.listen(52), 1000, 52)
	v.endSession()
	v.do(func() { v.m.Attach(); v.m.Inherit(); v.start(0); v.start(1); v.m.StopQueue(0) })
	time.Sleep(300 * time.Millisecond)
	v.do(func() { v.start(0); v.start(2) })
	v.driver.ExpectReset()
	if got := v.driver.Barrier(); len(got) != 0 {
		t.Errorf("beside the event, %v", got)
	}
}
