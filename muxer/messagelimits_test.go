package muxer_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
)

// A message without end can take all of our buffer, and then no more credit comes
// for its end: the connection is over.
func TestEndlessMessage(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{seqpacket: true})
	s := v.openMessages(v.listenMessages(52), 1000, 52)
	for range csm.MaxMessage/csm.MaxPayload - 1 {
		v.sendPiece(1000, 52, pattern(csm.MaxPayload), false)
	}
	v.sendPiece(1000, 52, pattern(csm.MaxPayload-1), false)
	v.eventually("a message has begun", func() bool { return v.stats.BufferedBegun.Load() >= csm.MaxMessage })
	if n := len(v.driver.Barrier()); n != 0 {
		t.Fatalf("%d packets came, want none: a byte is left for the end", n)
	}
	v.sendPiece(1000, 52, []byte("x"), false)
	v.driver.ExpectFor(1000, 52, csm.OpRST)
	s.wantEOF()
	v.count("violation", &v.stats.Resets[muxer.ResetViolation], 1)
	v.idle()
}

// The longest message there is comes in any pieces.
func TestLongestMessageInPieces(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{seqpacket: true})
	s := v.openMessages(v.listenMessages(52), 1000, 52)
	data := pattern(csm.MaxMessage)
	for _, piece := range []int{3000, 40000, csm.MaxPayload} {
		for at := 0; at < len(data); at += piece {
			end := min(at+piece, len(data))
			v.sendPiece(1000, 52, data[at:end], end == len(data))
		}
		s.want(data)
		v.driver.Barrier() // takes what is told of credit
	}
	v.sendPiece(1000, 52, data[:1000], false)
	v.sendPiece(1000, 52, nil, true) // its end has no bytes
	s.want(data[:1000])
}

// Many connections that each begin a message and end none take half of the memory
// at most; then they are reset, the tx ring goes on, and whole messages pass.
func TestBegunMessagesAreBounded(t *testing.T) {
	t.Parallel()
	const bound = 4 << 20
	v := newVM(t, options{seqpacket: true, Config: muxer.Config{MaxBuffered: bound}})
	p, d := v.listenMessages(52), v.driver
	const n = 40
	for i := range uint32(n) {
		v.openMessages(p, 1000+i, 52)
	}
	for i := range uint32(n) {
		v.sendPiece(1000+i, 52, pattern(50000), false)
		v.sendPiece(1000+i, 52, pattern(50000), false)
	}
	d.Barrier()
	v.do(func() {})
	if held := v.stats.BufferedBegun.Load(); held > bound/2 || held < bound/2-128<<10 {
		t.Errorf("%d bytes held for messages without end, the bound is %d", held, bound/2)
	}
	v.count("shortage", &v.stats.Resets[muxer.ResetShortage], n-bound/2/(112<<10)) // 7 chunks each
	if v.stats.BufferStalls.Load() != 0 {
		t.Error("the tx ring waits for programs that can do nothing about it")
	}
	s := v.openMessages(p, 2000, 52)
	v.sendPiece(2000, 52, []byte("whole"), true)
	s.want([]byte("whole"))
}

// A connection that begins many messages of a byte cannot hide their memory.
func TestSmallBegunMessagesCountWithTheirMemory(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{seqpacket: true, Config: muxer.Config{MaxBuffered: 1 << 20}})
	p := v.listenMessages(52)
	for i := range uint32(40) {
		v.openMessages(p, 1000+i, 52)
	}
	for i := range uint32(40) {
		v.sendPiece(1000+i, 52, []byte("x"), false)
	}
	v.count("shortage", &v.stats.Resets[muxer.ResetShortage], 40-(1<<19)/(16<<10))
	if held := v.stats.Buffered.Load(); held != 1<<19 {
		t.Errorf("%d bytes held", held)
	}
}

// Credit is never held back for the end of a message: with memory short, a guest
// whose program has read all whole messages gets room for the end of the next.
func TestShortMemoryDoesNotStopAMessage(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{seqpacket: true, Config: muxer.Config{MaxBuffered: 1 << 20}})
	p, g := v.listenMessages(52), v.guest()
	c, s := v.dialMessages(g, p, 52)
	var idle []*messageSock
	for range 3 { // their programs read nothing, so that memory is short
		other, sock := v.dialMessages(g, p, 52)
		for range 50 {
			if err := other.Send(csm.OpRW, csm.SeqEOM, pattern(40<<10)); err != nil {
				t.Fatal(err)
			}
			v.do(func() {})
			if v.stats.Buffered.Load() > int64(200<<10*(len(idle)+1)) {
				break
			}
		}
		idle = append(idle, sock)
	}
	if held := v.stats.Buffered.Load(); held < 1<<19 {
		t.Fatalf("%d bytes held: memory is not short", held)
	}
	message := pattern(150 << 10)
	done := make(chan error, 1)
	const n = 10
	go func() {
		var err error
		for range n {
			if err == nil {
				err = c.WriteMessage(message)
			}
		}
		done <- err
	}()
	v.eventually("a message has begun, and no credit is left for its end", func() bool {
		return v.stats.BufferedBegun.Load() > 100<<10
	})
	for range n {
		s.want(message)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// Small windows are for bytes: with one a guest could not send the message that it
// may send.
func TestShortMemoryLeavesTheWindowOfMessages(t *testing.T) {
	t.Parallel()
	const bound = 256 << 10
	v := newVM(t, options{seqpacket: true, Config: muxer.Config{MaxBuffered: bound}})
	d := v.driver
	v.openMessages(v.listenMessages(52), 1000, 52)
	for v.stats.Buffered.Load() <= bound/2 {
		v.sendPiece(1000, 52, pattern(30000), true)
		if !d.WaitTx(patience) {
			t.Fatal("the tx ring stands still")
		}
		v.do(func() {})
	}
	d.Barrier() // what came before are updates
	d.Send(v.messageHeader(1001, 52, csm.OpRequest), nil)
	if h := d.Expect(csm.OpResponse); h.BufAlloc != csm.MaxMessage {
		t.Errorf("messages: a window of %d bytes", h.BufAlloc)
	}
	v.listen(53)
	d.Send(d.Header(1002, 53, csm.OpRequest), nil)
	if h := d.Expect(csm.OpResponse); h.BufAlloc == csm.MaxMessage {
		t.Error("bytes: the full window: this test tests nothing")
	}
}

// Messages without bytes take no credit, so that there is a bound for them alone.
func TestEmptyMessagesOfTheGuestAreBounded(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{seqpacket: true})
	p, d := v.listenMessages(52), v.driver
	v.openMessages(p, 1000, 52)
	s := v.openMessages(p, 1001, 52)
	h := v.messageHeader(1000, 52, csm.OpRW)
	h.Flags = csm.SeqEOM
	for i := 0; ; i++ {
		if i > 20000 {
			t.Fatal("20000 empty messages wait for a program that does not read")
		}
		d.Add(h, nil)
		if i%64 == 63 {
			d.Kick()
			if p, ok := d.TryRecv(); ok {
				if p.Op != csm.OpRST {
					t.Fatalf("received %v, want RST", p.Op)
				}
				break
			}
		}
		if held := v.stats.Buffered.Load(); held > 64<<10 {
			t.Fatalf("%d bytes held for empty messages", held)
		}
	}
	v.count("violation", &v.stats.Resets[muxer.ResetViolation], 1)
	v.sendPiece(1001, 52, nil, true)
	s.want(nil)
}

// Those that fit wait, and all of them come.
func TestEmptyMessagesOfTheGuestWait(t *testing.T) {
	t.Parallel()
	messagePair(t, func(t *testing.T, v *vm, c *muxertest.Conn, s *messageSock) {
		const n = 3000
		for range n {
			guestSends(t, c, nil)
		}
		guestSends(t, c, []byte("last"))
		v.count("messages", &v.stats.TxMessages, n+1)
		if v.stats.HostStalls.Load() == 0 {
			t.Error("nothing had to wait: this test tests nothing")
		}
		for range n {
			s.want(nil)
		}
		s.want([]byte("last"))
		c.Close()
		s.wantEOF()
		v.idle()
	})
}

// Messages that programs do not read are bounded for the whole VM, as bytes are.
func TestBufferedMessagesAreBounded(t *testing.T) {
	t.Parallel()
	const bound = 4 << 20
	v := newVM(t, options{seqpacket: true, Config: muxer.Config{MaxBuffered: bound}})
	p, g := v.listenMessages(52), v.guest()
	const n, each = 24, 16
	message := pattern(70 << 10) // two packets
	var conns []*muxertest.Conn
	var socks []*messageSock
	for range n {
		c, s := v.dialMessages(g, p, 52)
		conns, socks = append(conns, c), append(socks, s)
	}
	done := make(chan error, n)
	for _, c := range conns {
		go func() {
			for i := range each {
				if err := c.WriteMessage(message[i:]); err != nil {
					done <- fmt.Errorf("message %d: %w", i, err)
					return
				}
			}
			done <- nil
		}()
	}
	v.eventually("the tx ring waits", func() bool { return v.stats.BufferStalls.Load() > 0 })
	if held := v.stats.Buffered.Load(); held > bound+csm.MaxPayload+32<<10 {
		t.Errorf("%d bytes buffered, the bound is %d", held, bound)
	}
	var readers sync.WaitGroup
	for _, s := range socks {
		readers.Go(func() {
			for i := range each {
				s.want(message[i:])
			}
		})
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
	v.idle()
}

// A message beyond the guest's credit is refused, as bytes are.
func TestMessageBeyondTheCredit(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{seqpacket: true})
	s := v.openMessages(v.listenMessages(52), 1000, 52)
	data := pattern(csm.MaxPayload)
	n := 0
	for over := false; !over; n++ { // the host socket takes some, and says so
		v.sendPiece(1000, 52, data, true)
		for _, p := range v.driver.Barrier() {
			over = over || p.Op == csm.OpRST
		}
		if n > 100 {
			t.Fatal("a hundred packets that nobody reads are taken")
		}
	}
	v.count("violation", &v.stats.Resets[muxer.ResetViolation], 1)
	for range n - 1 {
		s.want(data)
	}
	s.wantEOF()
}
