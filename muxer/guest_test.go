package muxer_test

import (
	"errors"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
)

func TestGuestConnectsToHostProgram(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	p, g := v.listen(52), v.guest()
	c, s := v.dial(g, p, 52)
	guestWrites(t, c, []byte("hello host"))
	s.want([]byte("hello host"))
	s.send([]byte("hello guest"))
	wantGuest(t, c, []byte("hello guest"))

	c.Close()
	s.wantEOF()
	if err := c.WaitOver(); err != muxertest.ErrReset {
		t.Fatalf("the guest's close ended with %v, want RST at once", err)
	}
	v.idle()
}

func TestHostProgramConnectsToGuest(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	g := v.guest()
	l := g.Listen(1234)
	c, s := v.call(l, 1234)
	s.send([]byte("hello guest"))
	wantGuest(t, c, []byte("hello guest"))
	guestWrites(t, c, []byte("hello host"))
	s.want([]byte("hello host"))

	s.Close()
	wantGuestEOF(t, c)
	if err := c.WaitOver(); err.Error() != "EOF" {
		t.Fatalf("the host's close ended with %v", err)
	}
	v.idle()
}

func TestManyBytesBothWaysAtOnce(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]options{
		"like Linux":          {},
		"ring of 256":         {ringSize: 256},
		"without EVENT_IDX":   {noEventIdx: true},
		"without indirect":    {noIndirect: true},
		"two rx descriptors":  {driver: muxertest.Options{Framing: muxertest.Framing{Rx: []int{44, 4096}}}},
		"odd framing":         {driver: muxertest.Options{Buffers: 20, Framing: muxertest.Framing{Rx: []int{1, 7, 40, 1000, 3}, Tx: muxertest.CutAt(1, 43, 45, 5000), Gap: 3}}},
		"eighteen pieces":     {driver: muxertest.Options{Framing: muxertest.Framing{Tx: muxertest.Pieces(18), Direct: 3}}},
		"one piece":           {driver: muxertest.Options{Framing: muxertest.Framing{Tx: muxertest.OnePiece}}},
		"large rx buffers":    {driver: muxertest.Options{Framing: muxertest.Framing{Rx: []int{44 + 64<<10}}}},
		"tiny rx buffers":     {driver: muxertest.Options{Framing: muxertest.Framing{Rx: []int{45 + 700}}}},
		"larger than maximum": {driver: muxertest.Options{Buffers: 30, Framing: muxertest.Framing{Rx: []int{200 << 10}}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVM(t, o)
			p, g := v.listen(52), v.guest()
			c, s := v.dial(g, p, 52)
			data := pattern(3<<20 + 17)
			done := make(chan error, 2)
			go func() { _, err := s.Write(data); done <- err }()
			go func() { _, err := c.Write(data); done <- err }()
			read := make(chan struct{})
			go func() { defer close(read); s.want(data) }()
			wantGuest(t, c, data)
			<-read
			for range 2 {
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			}
			s.Close()
			wantGuestEOF(t, c)
			v.idle()
		})
	}
}

func TestRefusedPortIsResetAtOnce(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	g := v.guest()
	for _, port := range []uint32{52, 0, 1<<32 - 1} {
		begin := time.Now()
		if _, err := g.Dial(port); err != muxertest.ErrReset {
			t.Fatalf("port %d: %v, want RST", port, err)
		}
		if d := time.Since(begin); d > 500*time.Millisecond {
			t.Errorf("port %d: refused after %v", port, d)
		}
	}
	v.count("refused", &v.stats.Resets[muxer.ResetRefused], 3)
	v.idle()
}

// A packet for which there is no connection, or a type nobody knows, is answered
// by an RST with its own addresses and type. An RST is never answered.
func TestStrangersAreReset(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	v.listen(52)
	d := v.driver
	header := func(op csm.Op, edit func(*csm.Header)) csm.Header {
		h := d.Header(1000, 52, op)
		if edit != nil {
			edit(&h)
		}
		return h
	}
	for _, test := range []struct {
		name   string
		h      csm.Header
		answer bool
		reason muxer.ResetReason
	}{
		{"RESPONSE", header(csm.OpResponse, nil), true, muxer.ResetOrphan},
		{"SHUTDOWN", header(csm.OpShutdown, nil), true, muxer.ResetOrphan},
		{"RW", header(csm.OpRW, nil), true, muxer.ResetOrphan},
		{"CREDIT_UPDATE", header(csm.OpCreditUpdate, nil), true, muxer.ResetOrphan},
		{"CREDIT_REQUEST", header(csm.OpCreditRequest, nil), true, muxer.ResetOrphan},
		{"op 0", header(0, nil), true, muxer.ResetOrphan},
		{"op 8", header(8, nil), true, muxer.ResetOrphan},
		{"op 65535", header(65535, nil), true, muxer.ResetOrphan},
		{"RST", header(csm.OpRST, nil), false, 0},
		{"RST of type 3", header(csm.OpRST, func(h *csm.Header) { h.Type = 3 }), false, 0},
		{"RST to CID 7", header(csm.OpRST, func(h *csm.Header) { h.DstCID = 7 }), false, 0},
		{"type 0", header(csm.OpRequest, func(h *csm.Header) { h.Type = 0 }), true, muxer.ResetType},
		{"type 3", header(csm.OpRequest, func(h *csm.Header) { h.Type = 3 }), true, muxer.ResetType},
		{"type 65535", header(csm.OpRW, func(h *csm.Header) { h.Type = 65535 }), true, muxer.ResetType},
		{"seqpacket", header(csm.OpRequest, func(h *csm.Header) { h.Type = csm.TypeSeqpacket }), true, muxer.ResetType},
		{"to itself", header(csm.OpRequest, func(h *csm.Header) { h.DstCID = 3 }), true, muxer.ResetCID},
		{"to CID 7", header(csm.OpRequest, func(h *csm.Header) { h.DstCID = 7 }), true, muxer.ResetCID},
		{"to CID 0", header(csm.OpRequest, func(h *csm.Header) { h.DstCID = 0 }), true, muxer.ResetCID},
		{"to CID 1", header(csm.OpRW, func(h *csm.Header) { h.DstCID = 1 }), true, muxer.ResetCID},
		{"to any CID", header(csm.OpRequest, func(h *csm.Header) { h.DstCID = 0xffffffff }), true, muxer.ResetCID},
		{"to the host, beyond 32 bits", header(csm.OpRequest, func(h *csm.Header) { h.DstCID = 1<<32 | 2 }), true, muxer.ResetCID},
		{"from the host", header(csm.OpRequest, func(h *csm.Header) { h.SrcCID = 2 }), false, 0},
		{"from a neighbour", header(csm.OpRequest, func(h *csm.Header) { h.SrcCID = 4 }), false, 0},
		{"from itself, beyond 32 bits", header(csm.OpRequest, func(h *csm.Header) { h.SrcCID = 1<<32 | 3 }), false, 0},
		{"neighbour's RW of type 3", header(csm.OpRW, func(h *csm.Header) { h.SrcCID = 4; h.Type = 3 }), false, 0},
	} {
		before := v.stats.Resets[test.reason].Load()
		d.Send(test.h, nil)
		got := d.Barrier()
		if !test.answer {
			if len(got) != 0 {
				t.Errorf("%s: answered by %v", test.name, got)
			}
			continue
		}
		want := csm.Header{
			SrcCID: test.h.DstCID, DstCID: 3, SrcPort: 52, DstPort: 1000, Type: test.h.Type, Op: csm.OpRST,
		}
		if len(got) != 1 || got[0].Header != want {
			t.Errorf("%s: answered by %+v, want %+v", test.name, got, want)
		}
		orphan := uint64(0)
		if test.reason == muxer.ResetOrphan {
			orphan = 1 // the barrier's own
		}
		if n := v.stats.Resets[test.reason].Load() - before; n != 1+orphan {
			t.Errorf("%s: counted %d resets for reason %s", test.name, n-orphan, muxer.ResetReasons[test.reason])
		}
	}
	if n := v.stats.Drops[muxer.DropSourceCID].Load(); n != 4 {
		t.Errorf("%d packets dropped for their source, want 4", n)
	}
	if n := v.stats.Drops[muxer.DropOrphanRST].Load(); n != 3 {
		t.Errorf("%d orphan RSTs counted, want 3", n)
	}
	v.idle()
}

func TestTypeMismatchLeavesTheConnectionAlone(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	p, d := v.listen(52), v.driver
	s := v.open(p, 1000, 52)
	h := d.Header(1000, 52, csm.OpRW)
	h.Type = csm.TypeSeqpacket
	d.Send(h, []byte("x"))
	if rst := d.Expect(csm.OpRST); rst.Type != csm.TypeSeqpacket {
		t.Fatalf("RST of type %d", rst.Type)
	}
	h.SrcCID, h.Type = 4, csm.TypeStream
	d.Send(h, []byte("spoofed"))
	d.Send(d.Header(1000, 52, csm.OpRW), []byte("mine"))
	s.want([]byte("mine"))
}

func TestDuplicateRequestEndsTheConnection(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	p, d := v.listen(52), v.driver
	s := v.open(p, 1000, 52)
	d.Send(d.Header(1000, 52, csm.OpRequest), nil)
	d.ExpectFor(1000, 52, csm.OpRST)
	s.wantEOF()
	v.count("duplicates", &v.stats.Resets[muxer.ResetDuplicate], 1)
	v.idle()

	s = v.open(p, 1000, 52) // the ports are free again
	s.Close()
	if h := d.Expect(csm.OpShutdown); h.Flags != csm.ShutdownBoth {
		t.Fatalf("SHUTDOWN %d", h.Flags)
	}
	d.Send(d.Header(1000, 52, csm.OpRequest), nil) // while it is closing
	d.ExpectFor(1000, 52, csm.OpRST)
	v.idle()
}

func TestOnePortOfTheGuestConnectsTwice(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	p, q, g := v.listen(52), v.listen(53), v.guest()
	c1, err := g.DialFrom(1000, 52)
	if err != nil {
		t.Fatal(err)
	}
	c2, err := g.DialFrom(1000, 53)
	if err != nil {
		t.Fatal(err)
	}
	s1, s2 := p.accept(), q.accept()
	guestWrites(t, c1, []byte("one"))
	guestWrites(t, c2, []byte("two"))
	s1.want([]byte("one"))
	s2.want([]byte("two"))
}

func TestBadPacketsAreDropped(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	p, d := v.listen(52), v.driver
	s := v.open(p, 1000, 52)

	for _, n := range []int{1, 43} {
		d.SendBytes(make([]byte, n))
	}
	long := d.Header(2000, 52, csm.OpRW) // of no connection
	long.Len = 65537
	d.Send(long, nil)
	if got := d.Barrier(); len(got) != 0 {
		t.Fatalf("bad packets are answered by %v", got)
	}
	v.count("short", &v.stats.Drops[muxer.DropShort], 2)
	v.count("length", &v.stats.Drops[muxer.DropLength], 1)
	if !d.WaitTx(patience) {
		t.Fatal("a descriptor was lost")
	}
	d.Send(d.Header(1000, 52, csm.OpRW), []byte("well"))
	s.want([]byte("well"))

	h := d.Header(1000, 52, csm.OpRW) // a stream with bytes missing is broken
	h.Len = 5
	d.Send(h, []byte("four"))
	d.ExpectFor(1000, 52, csm.OpRST)
	s.wantEOF()
	v.idle()
}

// A chain may be longer than its packet; what is behind the packet is nobody's.
func TestChainLongerThanItsPacket(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{driver: muxertest.Options{Framing: muxertest.Framing{Tx: muxertest.CutAt(44, 47, 50)}}})
	p, d := v.listen(52), v.driver
	s := v.open(p, 1000, 52)
	for _, payload := range []string{"abcWASTEWASTE", "defWASTE", "ghi"} {
		h := d.Header(1000, 52, csm.OpRW)
		h.Len = 3
		d.Add(h, []byte(payload))
	}
	d.Kick()
	s.want([]byte("abcdefghi"))

	h := d.Header(1000, 52, csm.OpShutdown) // len means nothing outside RW
	h.Len, h.Flags = 9, csm.ShutdownBoth
	d.Send(h, []byte("payload"))
	d.Expect(csm.OpRST)
	s.wantEOF()
}

func TestUnknownOpEndsAConnection(t *testing.T) {
	t.Parallel()
	for _, op := range []csm.Op{0, 8, 65535} {
		v := newVM(t, options{})
		p, d := v.listen(52), v.driver
		s := v.open(p, 1000, 52)
		d.Send(d.Header(1000, 52, op), nil)
		d.ExpectFor(1000, 52, csm.OpRST)
		s.wantEOF()
	}
}

func TestRequestForAnOwnSocketIsReset(t *testing.T) {
	t.Parallel()
	own := make(chan string, 1)
	v := newVM(t, options{Config: muxer.Config{OwnSocket: func(path string) bool { own <- path; return true }}})
	p, g := v.listen(52), v.guest()
	if _, err := g.Dial(52); !errors.Is(err, muxertest.ErrReset) {
		t.Fatal("the guest reached a socket of the daemon:", err)
	}
	if path := <-own; path != v.portPath(52) {
		t.Errorf("asked for %s", path)
	}
	p.SetDeadline(time.Now()) // nobody has connected
	if c, err := p.AcceptUnix(); err == nil {
		c.Close()
		t.Error("the socket was connected to")
	}
	v.count("own sockets", &v.stats.Resets[muxer.ResetOwnSocket], 1)
}

func TestWithoutStreamsEveryRequestIsReset(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		features uint64
		streams  bool
	}{{0, true}, {1, true}, {1 | 4, true}, {4, false}, {2, true}, {2 | 4, false}} {
		v := newVM(t, options{})
		v.listen(52)
		v.do(func() { v.m.Negotiated(test.features) })
		_, err := v.guest().Dial(52)
		if streams := err == nil; streams != test.streams {
			t.Errorf("features %#x: %v", test.features, err)
		}
	}
}

func TestConfigAndFeatures(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	p := make([]byte, 12)
	v.m.Config(p)
	if string(p) != "\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" {
		t.Errorf("configuration space % x", p)
	}
	v.m.Config(p[:4]) // a short one is no crash
	if f := v.m.Features(); f != 1<<0|1<<1|1<<2|1<<28|1<<29|1<<32|1<<35 {
		t.Errorf("features %#x", f)
	}
}
