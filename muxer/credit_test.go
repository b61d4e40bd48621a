package muxer_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
)

// The guest hears of room before it sees less than one full packet of it, while
// the host program reads (Linux never asks).
func TestCreditComesUnasked(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	p, d := v.listen(52), v.driver
	d.Send(d.Header(1000, 52, csm.OpRequest), nil)
	if h := d.Expect(csm.OpResponse); h.BufAlloc != 256<<10 || h.FwdCnt != 0 {
		t.Fatalf("RESPONSE offers %d, fwd_cnt %d", h.BufAlloc, h.FwdCnt)
	}
	s := p.accept()
	packet := pattern(csm.MaxPayload)
	var sent, told uint32
	for range 256 {
		for sent-told > 256<<10-csm.MaxPayload {
			told = d.Expect(csm.OpCreditUpdate).FwdCnt
		}
		d.Send(d.Header(1000, 52, csm.OpRW), packet)
		sent += csm.MaxPayload
		s.want(packet)
	}
}

func TestSmallPacketsEarnFewUpdates(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	p, d := v.listen(52), v.driver
	s := v.open(p, 1000, 52)
	for range 1000 {
		d.Send(d.Header(1000, 52, csm.OpRW), []byte("small packet"))
	}
	s.want(make([]byte, 0))
	v.eventually("all are taken", func() bool { return v.stats.TxBytes.Load() == 12000 })
	if n := v.stats.RxPackets[csm.OpCreditUpdate].Load(); n != 0 {
		t.Errorf("%d updates for 12000 bytes", n)
	}
}

func TestCreditRequestIsAnsweredOnce(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{driver: muxertest.Options{Buffers: -1}})
	p, d := v.listen(52), v.driver
	d.PostBuffers(1)
	s := v.open(p, 1000, 52)
	d.Send(d.Header(1000, 52, csm.OpRW), []byte("12345"))
	s.want([]byte("12345"))
	for range 500 { // no buffer is posted: they meet one pending update
		d.Send(d.Header(1000, 52, csm.OpCreditRequest), nil)
	}
	if !d.WaitTx(patience) {
		t.Fatal("the tx ring waits for the rx ring")
	}
	d.PostBuffers(10)
	if h := d.ExpectFor(1000, 52, csm.OpCreditUpdate); h.FwdCnt != 5 || h.BufAlloc != 256<<10 {
		t.Fatalf("update %+v", h.Header)
	}
	if got := d.Barrier(); len(got) != 0 {
		t.Fatalf("answered again by %v", got)
	}
}

func TestCreditIsToldByTheWay(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	p, d := v.listen(52), v.driver
	s := v.open(p, 1000, 52)
	d.Send(d.Header(1000, 52, csm.OpRW), []byte("12345"))
	s.want([]byte("12345"))
	s.send([]byte("x"))
	if h := d.Expect(csm.OpRW); h.FwdCnt != 5 || h.BufAlloc != 256<<10 {
		t.Fatalf("RW with fwd_cnt %d", h.FwdCnt)
	}
}

// recvBytes receives RW packets of a connection until n bytes came; others are
// returned.
func recvBytes(t *testing.T, d *muxertest.Driver, n int) (data []byte, others []csm.Op, packets int) {
	t.Helper()
	for len(data) < n {
		p, ok := d.Recv(patience)
		if !ok {
			t.Fatalf("%d bytes of %d came", len(data), n)
		}
		if p.Op != csm.OpRW {
			others = append(others, p.Op)
			continue
		}
		data = append(data, p.Payload...)
		packets++
	}
	return data, others, packets
}

// expectPast is Expect past CREDIT_REQUESTs: on a slow machine a guest is asked
// again.
func expectPast(t *testing.T, d *muxertest.Driver, op csm.Op) muxertest.Packet {
	t.Helper()
	for {
		p, ok := d.Recv(patience)
		if !ok || p.Op != csm.OpCreditRequest && p.Op != op {
			t.Fatalf("received %v, want %v", p.Op, op)
		}
		if p.Op == op {
			return p
		}
	}
}

// The window is filled to the last byte and not beyond, one CREDIT_REQUEST asks
// for more, and an update sets the bytes in motion.
func TestGuestWindow(t *testing.T) {
	t.Parallel()
	for _, window := range []uint32{1, 1023, 5000, 256 << 10} {
		t.Run(fmt.Sprint(window), func(t *testing.T) {
			t.Parallel()
			v := newVM(t, options{driver: muxertest.Options{BufAlloc: window}})
			p, d := v.listen(52), v.driver
			s := v.open(p, 1000, 52)
			data := pattern(3*int(window) + 1)
			go s.Write(data)
			var got []byte
			for range 3 {
				part, others, _ := recvBytes(t, d, int(window))
				got = append(got, part...)
				if len(part) != int(window) {
					t.Fatalf("%d bytes for a window of %d", len(part), window)
				}
				for _, op := range others {
					if op != csm.OpCreditRequest {
						t.Fatalf("received %v", op)
					}
				}
				h := d.Expect(csm.OpCreditRequest)
				for _, q := range d.Barrier() {
					if q.Op != csm.OpCreditRequest { // asked again, on a slow machine
						t.Fatalf("received %v after the window was full", q.Op)
					}
				}
				h.Header = d.Header(1000, 52, csm.OpCreditUpdate)
				h.FwdCnt = uint32(len(got))
				d.Send(h.Header, nil)
			}
			part, _, _ := recvBytes(t, d, 1)
			if got = append(got, part...); string(got) != string(data) {
				t.Fatal("other bytes than were sent")
			}
		})
	}
}

func TestZeroWindow(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	p, d := v.listen(52), v.driver
	h := d.Header(1000, 52, csm.OpRequest)
	h.BufAlloc = 0
	d.Send(h, nil)
	d.Expect(csm.OpResponse)
	s := p.accept()
	s.send([]byte("wait for it"))
	d.Expect(csm.OpCreditRequest)
	h.Op = csm.OpCreditUpdate
	d.Send(h, nil) // no news
	h.BufAlloc = 4
	d.Send(h, nil)
	if rw := expectPast(t, d, csm.OpRW); string(rw.Payload) != "wait" {
		t.Fatalf("RW %q", rw.Payload)
	}
	expectPast(t, v.driver, csm.OpCreditRequest)
	v.count("credit stalls", &v.stats.CreditStalls, 2)

	// End of file needs no credit, once the bytes are out.
	h.BufAlloc, h.FwdCnt = 7, 4
	s.CloseWrite()
	d.Send(h, nil)
	if rw := expectPast(t, d, csm.OpRW); string(rw.Payload) != " for it" {
		t.Fatalf("RW %q", rw.Payload)
	}
	if q := expectPast(t, d, csm.OpShutdown); q.Flags != csm.ShutdownSend {
		t.Fatalf("SHUTDOWN %d", q.Flags)
	}
}

// The window is full to the last byte when the program shuts its sending side:
// end of file needs no credit, and so does a close.
func TestEndOfFileNeedsNoCredit(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{driver: muxertest.Options{BufAlloc: 100}})
	p := v.listen(52)
	s := v.open(p, 1000, 52)
	s.send(pattern(100))
	recvBytes(t, v.driver, 100)
	v.do(func() {}) // the muxer finds that there is no credit
	s.CloseWrite()
	if q := expectPast(t, v.driver, csm.OpShutdown); q.Flags != csm.ShutdownSend {
		t.Fatalf("SHUTDOWN %d", q.Flags)
	}
	s.Close()
	if q := expectPast(t, v.driver, csm.OpShutdown); q.Flags != csm.ShutdownBoth {
		t.Fatalf("SHUTDOWN %d", q.Flags)
	}
}

// While bytes wait, the guest is asked now and then, ever more rarely; without
// bytes it is not asked at all.
func TestGuestIsAskedAgain(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{driver: muxertest.Options{BufAlloc: 4096}})
	p, d := v.listen(52), v.driver
	s := v.open(p, 1000, 52)
	s.send(pattern(4097))
	recvBytes(t, d, 4096)
	asked := 0
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); {
		if q, ok := d.Recv(time.Until(deadline)); ok {
			if q.Op != csm.OpCreditRequest {
				t.Fatalf("received %v", q.Op)
			}
			asked++
		}
	}
	if asked < 2 || asked > 12 {
		t.Errorf("asked %d times in a second", asked)
	}
	h := d.Header(1000, 52, csm.OpCreditUpdate)
	h.FwdCnt = 4096
	d.Send(h, nil)
	expectPast(t, v.driver, csm.OpRW)
	d.ExpectSilence(700 * time.Millisecond)
}

// A window that shrinks below what is on the way reads as none.
func TestShrinkingAndLyingWindows(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{driver: muxertest.Options{BufAlloc: 10000}})
	p, d := v.listen(52), v.driver
	s := v.open(p, 1000, 52)
	s.send(pattern(10000))
	recvBytes(t, d, 10000)
	s.send([]byte("more"))
	expectPast(t, v.driver, csm.OpCreditRequest)
	update := func(bufAlloc, fwdCnt uint32) {
		h := d.Header(1000, 52, csm.OpCreditUpdate)
		h.BufAlloc, h.FwdCnt = bufAlloc, fwdCnt
		d.Send(h, nil)
	}
	for _, lie := range []struct{ bufAlloc, fwdCnt uint32 }{
		{10, 0}, {10, 9000}, {10, 9990}, {10, 20000}, {10, 0xffffffff}, {0, 9990}, {10, 5}, {10, 1 << 31}, {999, 9001},
	} {
		update(lie.bufAlloc, lie.fwdCnt)
		for _, q := range d.Barrier() {
			if q.Op != csm.OpCreditRequest {
				t.Fatalf("%+v: received %v", lie, q.Op)
			}
		}
	}
	update(0xffffffff, 10000) // honest again, and generous
	data, _, _ := recvBytes(t, d, 4)
	if string(data) != "more" {
		t.Fatalf("RW %q", data)
	}
}

func TestGuestExceedsItsCredit(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	p, d := v.listen(52), v.driver
	other := v.open(p, 2000, 52)
	s := v.open(p, 1000, 52)
	data := pattern(csm.MaxPayload)
	var sent int
	for {
		d.Send(d.Header(1000, 52, csm.OpRW), data)
		sent += len(data)
		q, ok := d.TryRecv()
		if ok && q.Op == csm.OpRST {
			break
		}
		if ok && q.Op != csm.OpCreditUpdate { // for what the socket took
			t.Fatalf("received %v", q.Op)
		}
		if !d.WaitTx(patience) {
			t.Fatal("the tx ring stands still")
		}
		if sent > 1<<20 {
			t.Fatalf("%d bytes were taken from a guest that had no credit", sent)
		}
	}
	got := s.readAll() // what it had credit for arrives nevertheless
	if len(got)%len(data) != 0 || len(got) > sent-len(data) || len(got) < 256<<10 {
		t.Errorf("the host program reads %d bytes of %d", len(got), sent)
	}
	d.Send(d.Header(2000, 52, csm.OpRW), []byte("unharmed"))
	other.want([]byte("unharmed"))
	v.count("violations", &v.stats.Resets[muxer.ResetViolation], 1)
}

// However small the program's writes, the guest gets no more packets than it can
// count, and the others leave in large ones.
func TestPacketCountLimit(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{ringSize: 1024})
	p, d := v.listen(52), v.driver
	s := v.open(p, 1000, 52)
	for i := range 256 {
		s.send([]byte{byte(i)})
		recvBytes(t, d, 1)
	}
	rest := pattern(100)
	for _, b := range rest {
		s.send([]byte{b})
	}
	v.count("packet stalls", &v.stats.PacketStalls, 1)
	for _, q := range d.Barrier() {
		if q.Op != csm.OpCreditRequest { // the guest is asked, and asked again
			t.Fatalf("received %v beyond 256 packets", q.Op)
		}
	}
	h := d.Header(1000, 52, csm.OpCreditUpdate)
	h.FwdCnt = 1 // the first has been read
	d.Send(h, nil)
	rw := expectPast(t, d, csm.OpRW)
	if string(rw.Payload) != string(rest) {
		t.Fatalf("RW of %d bytes, want all of them in one packet", len(rw.Payload))
	}
}

// The same where it is the receive buffers that are small: one read may not fill
// more of them than the guest can count.
func TestPacketCountLimitOfOneRead(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{driver: muxertest.Options{BufAlloc: 8 << 10, Framing: muxertest.Framing{Rx: []int{44 + 16}}}})
	p, d := v.listen(52), v.driver
	s := v.open(p, 1000, 52)
	data := pattern(1000)
	s.send(data)
	h := d.Header(1000, 52, csm.OpCreditUpdate)
	var got []byte
	for len(got) < len(data) {
		part, _, packets := recvBytes(t, d, min(8*16, len(data)-len(got)))
		if packets > 8 {
			t.Fatalf("%d packets at once", packets)
		}
		for _, q := range d.Barrier() {
			if q.Op != csm.OpCreditRequest {
				t.Fatalf("received %v behind 8 packets that were not read", q.Op)
			}
		}
		got = append(got, part...)
		h.FwdCnt = uint32(len(got))
		d.Send(h, nil)
	}
	if string(got) != string(data) {
		t.Fatal("other bytes than were sent")
	}
}

// A program that does not read: its bytes wait in memory, up to the window, and
// all arrive when it does. Others are not held up.
func TestStalledHostProgram(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	p, g := v.listen(52), v.guest()
	c, s := v.dial(g, p, 52)
	data := pattern(2 << 20)
	done := make(chan error, 1)
	go func() { _, err := c.Write(data); done <- err }()
	v.eventually("a host stall", func() bool { return v.stats.HostStalls.Load() > 0 })

	c2, s2 := v.dial(g, p, 52)
	guestWrites(t, c2, data[:1<<10])
	s2.want(data[:1<<10])

	v.eventually("the window is full", func() bool { return v.stats.Buffered.Load() > 200<<10 })
	if n := v.stats.Buffered.Load(); n > 256<<10+16<<10 {
		t.Errorf("%d bytes buffered for a window of 256 KiB", n)
	}
	s.want(data)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	c.Close()
	s.wantEOF()
	c2.Close()
	s2.wantEOF()
	v.idle()
}

// Memory for host programs that do not read is bounded for the whole VM: above
// half, windows shrink and no credit comes; at the bound the tx ring waits. When
// they read, everything goes on, and not a byte or connection was lost.
func TestBufferedBytesAreBounded(t *testing.T) {
	t.Parallel()
	const bound = 2 << 20
	v := newVM(t, options{Config: muxer.Config{MaxBuffered: bound}})
	p, g := v.listen(52), v.guest()
	data := pattern(1 << 20)
	const n = 24
	var conns []*muxertest.Conn
	var socks []*sock
	for range n {
		c, s := v.dial(g, p, 52)
		conns, socks = append(conns, c), append(socks, s)
	}
	done := make(chan error, n)
	for _, c := range conns {
		go func() { _, err := c.Write(data); done <- err }()
	}
	v.count("buffer stalls", &v.stats.BufferStalls, 1)
	if held := v.stats.Buffered.Load(); held > bound+csm.MaxPayload+16<<10 {
		t.Errorf("%d bytes buffered, the bound is %d", held, bound)
	}
	var readers sync.WaitGroup
	for _, s := range socks {
		readers.Go(func() { s.want(data) })
	}
	readers.Wait()
	for range n {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	for _, c := range conns {
		c.Close()
	}
	for _, c := range conns {
		if err := c.WaitOver(); err != muxertest.ErrReset {
			t.Error(err)
		}
	}
	v.idle()
}

func TestShortMemoryShrinksNewWindows(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{Config: muxer.Config{MaxBuffered: 384 << 10}})
	p, d := v.listen(52), v.driver
	s := v.open(p, 1000, 52)

	// A client that does not take its OK line makes every byte wait in memory.
	client := v.client("CONNECT 52\n")
	hostPort := d.Expect(csm.OpRequest).SrcPort
	d.Send(d.Header(52, hostPort, csm.OpResponse), nil)
	data := v.fillWindow(52, hostPort)
	if held := v.stats.Buffered.Load(); held != 256<<10 {
		t.Fatalf("%d bytes buffered", held)
	}

	v.fillWindow(1000, 52) // most of it is taken by the socket
	var told uint32
	for _, q := range append(d.Barrier(), d.Barrier()...) {
		told = q.FwdCnt
	}
	for range 3 {
		d.Send(d.Header(1000, 52, csm.OpCreditRequest), nil)
		if h := d.Expect(csm.OpCreditUpdate); h.FwdCnt > told {
			t.Fatalf("new credit from %d up to %d for a program that does not read", told, h.FwdCnt)
		}
	}
	d.Send(d.Header(2000, 52, csm.OpRequest), nil)
	if h := d.Expect(csm.OpResponse); h.BufAlloc != 64<<10 {
		t.Fatalf("a new connection is offered %d bytes", h.BufAlloc)
	}

	client.wantOK()
	client.want(data)
	s.want(data)
	// All of the window comes back, but for what is too little to be told.
	for told := map[uint32]uint32{}; told[1000] <= 192<<10 || told[52] <= 192<<10; {
		q := d.Expect(csm.OpCreditUpdate)
		told[q.DstPort] = q.FwdCnt
	}
	d.Send(d.Header(3000, 52, csm.OpRequest), nil)
	if h := d.Expect(csm.OpResponse); h.BufAlloc != 256<<10 {
		t.Fatalf("with memory free again a new connection is offered %d bytes", h.BufAlloc)
	}
}

// Zero-length packets and flags without meaning cost nothing.
func TestEmptyPackets(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	p, d := v.listen(52), v.driver
	s := v.open(p, 1000, 52)
	for range 5000 {
		h := d.Header(1000, 52, csm.OpRW)
		h.Flags = 3 | 1<<31
		d.Add(h, nil)
	}
	d.Kick()
	d.Send(d.Header(1000, 52, csm.OpRW), []byte("end"))
	s.want([]byte("end"))
	if got := d.Barrier(); len(got) != 0 {
		t.Fatalf("answered by %v", got)
	}
}

// Older Linux guests tell of bytes they have read, and not of packets, unless
// they are asked; and whom they answer before their program has read, they do not
// tell later. So a connection of small packets asks, and asks again.
func TestSilentGuestIsAskedAgainForPackets(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{ringSize: 1024})
	p, d := v.listen(52), v.driver
	s := v.open(p, 1000, 52)
	for i := range 256 {
		s.send([]byte{byte(i)})
		recvBytes(t, d, 1)
	}
	s.send([]byte("one more"))
	for range 3 {
		expectAsked(t, d)
		d.Send(d.Header(1000, 52, csm.OpCreditUpdate), nil) // nothing was read yet
	}
	expectAsked(t, d)
	h := d.Header(1000, 52, csm.OpCreditUpdate)
	h.FwdCnt = 256
	d.Send(h, nil)
	if rw := expectPast(t, d, csm.OpRW); string(rw.Payload) != "one more" {
		t.Fatalf("RW %q", rw.Payload)
	}
}

func expectAsked(t *testing.T, d *muxertest.Driver) {
	t.Helper()
	if p, ok := d.Recv(patience); !ok || p.Op != csm.OpCreditRequest {
		t.Fatalf("received %v, want CREDIT_REQUEST", p.Op)
	}
}
