package muxer_test

import (
	"errors"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
)

// pair runs a test once over a guest-initiated and once over a host-initiated
// connection.
func pair(t *testing.T, f func(t *testing.T, v *vm, c *muxertest.Conn, s *sock)) {
	t.Run("guest-initiated", func(t *testing.T) {
		t.Parallel()
		v := newVM(t, options{})
		p, g := v.listen(52), v.guest()
		c, s := v.dial(g, p, 52)
		f(t, v, c, s)
	})
	t.Run("host-initiated", func(t *testing.T) {
		t.Parallel()
		v := newVM(t, options{})
		c, s := v.call(v.guest().Listen(52), 52)
		f(t, v, c, s)
	})
}

func TestGuestHalfCloses(t *testing.T) {
	t.Parallel()
	pair(t, func(t *testing.T, v *vm, c *muxertest.Conn, s *sock) {
		guestWrites(t, c, []byte("question"))
		c.Shutdown(csm.ShutdownSend)
		s.want([]byte("question"))
		s.wantEOF()
		s.send([]byte("answer"))
		wantGuest(t, c, []byte("answer"))
		s.Close()
		wantGuestEOF(t, c)
		if err := c.WaitOver(); err != io.EOF {
			t.Fatal(err)
		}
		v.idle()
	})
}

func TestHostHalfCloses(t *testing.T) {
	t.Parallel()
	pair(t, func(t *testing.T, v *vm, c *muxertest.Conn, s *sock) {
		s.send([]byte("question"))
		s.CloseWrite()
		wantGuest(t, c, []byte("question"))
		wantGuestEOF(t, c)
		if f := c.HostShut(); f != csm.ShutdownSend {
			t.Fatalf("SHUTDOWN %d, want SEND alone", f)
		}
		guestWrites(t, c, []byte("answer"))
		s.want([]byte("answer"))
		c.Close()
		s.wantEOF()
		if err := c.WaitOver(); err != muxertest.ErrReset {
			t.Fatal(err)
		}
		v.idle()
	})
}

// The host program shuts its sending side and closes later, unprompted: the
// guest hears of both.
func TestHostHalfClosesThenCloses(t *testing.T) {
	t.Parallel()
	pair(t, func(t *testing.T, v *vm, c *muxertest.Conn, s *sock) {
		s.CloseWrite()
		if err := c.WaitHostShut(csm.ShutdownSend); err != nil {
			t.Fatal(err)
		}
		s.Close()
		if err := c.WaitOver(); err != io.EOF {
			t.Fatal(err)
		}
		v.idle()
	})
}

func TestBothHalfClose(t *testing.T) {
	t.Parallel()
	pair(t, func(t *testing.T, v *vm, c *muxertest.Conn, s *sock) {
		s.CloseWrite()
		wantGuestEOF(t, c)
		guestWrites(t, c, []byte("last words"))
		c.Shutdown(csm.ShutdownSend)
		s.want([]byte("last words"))
		s.wantEOF()
		s.Close()
		if err := c.WaitOver(); err != io.EOF {
			t.Fatal(err)
		}
		v.idle()
	})
}

// shutRead makes the host program read no more.
func (s *sock) shutRead() {
	s.t.Helper()
	if err := s.CloseRead(); err != nil {
		s.t.Fatal(err)
	}
}

// EPIPE without a hang-up: the program has shut its receiving side, and still
// sends.
func TestHostStopsReading(t *testing.T) {
	t.Parallel()
	pair(t, func(t *testing.T, v *vm, c *muxertest.Conn, s *sock) {
		guestWrites(t, c, []byte("before"))
		s.want([]byte("before"))
		s.shutRead()
		guestWrites(t, c, []byte("nobody reads this"))
		if err := c.WaitHostShut(csm.ShutdownRcv); err != nil {
			t.Fatal(err)
		}
		if f := c.HostShut(); f != csm.ShutdownRcv {
			t.Fatalf("SHUTDOWN %d, want RCV alone", f)
		}
		s.send([]byte("still here"))
		wantGuest(t, c, []byte("still here"))
		// What the guest had sent before it heard of it does no harm.
		for range 10 {
			c.Send(csm.OpRW, 0, pattern(40<<10))
		}
		s.send([]byte("and still"))
		wantGuest(t, c, []byte("and still"))
		s.Close()
		wantGuestEOF(t, c)
		v.idle()
	})
}

// With bytes in the way it is a flush that meets the program's SHUT_RD. A socket
// that is full tells nothing before the program has read what it has got.
func TestHostStopsReadingWithBytesBuffered(t *testing.T) {
	t.Parallel()
	pair(t, func(t *testing.T, v *vm, c *muxertest.Conn, s *sock) {
		v.guestFills(c)
		s.shutRead()
		s.readAll()
		if err := c.WaitHostShut(csm.ShutdownRcv); err != nil {
			t.Fatal(err)
		}
		s.send([]byte("still here"))
		wantGuest(t, c, []byte("still here"))
		c.Close()
		if err := c.WaitOver(); err != muxertest.ErrReset {
			t.Fatal(err)
		}
		v.idle()
	})
}

func TestGuestStopsReading(t *testing.T) {
	t.Parallel()
	pair(t, func(t *testing.T, v *vm, c *muxertest.Conn, s *sock) {
		c.Shutdown(csm.ShutdownRcv)
		v.eventually("the host program gets EPIPE", func() bool {
			_, err := s.Write([]byte("x"))
			return errors.Is(err, unix.EPIPE)
		})
		guestWrites(t, c, []byte("still here"))
		s.want([]byte("still here"))
		s.Close()
		if err := c.WaitHostShut(csm.ShutdownBoth); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if err := c.WaitOver(); err != io.EOF {
			t.Fatal(err)
		}
		v.idle()
	})
}

// What a program wrote before it closed arrives, though it is more than the
// guest's window, and SHUTDOWN comes after it.
func TestHostWritesAndCloses(t *testing.T) {
	t.Parallel()
	pair(t, func(t *testing.T, v *vm, c *muxertest.Conn, s *sock) {
		data := pattern(1 << 20)
		go func() {
			s.Write(data)
			s.Close()
		}()
		wantGuest(t, c, data)
		wantGuestEOF(t, c)
		v.idle()
	})
}

// A program that closes with our bytes unread makes its socket hang up with
// ECONNRESET. What it had written is still there, and still for the guest.
func TestHostClosesWithBytesUnread(t *testing.T) {
	t.Parallel()
	pair(t, func(t *testing.T, v *vm, c *muxertest.Conn, s *sock) {
		data := pattern(400 << 10) // more than the guest's window
		guestWrites(t, c, []byte("unread"))
		v.eventually("bytes at the host program", func() bool { return v.stats.TxBytes.Load() == 6 })
		go func() {
			s.Write(data)
			s.Close()
		}()
		wantGuest(t, c, data)
		wantGuestEOF(t, c)
		if err := c.WaitHostShut(csm.ShutdownBoth); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		v.idle()
	})
}

// The same when it is a write of ours that finds the program gone: EPIPE comes
// before the bytes that are still to be read.
func TestWriteFindsTheProgramGone(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{driver: muxertest.Options{Buffers: -1}})
	p, d := v.listen(52), v.driver
	d.PostBuffers(1)
	s := v.open(p, 1000, 52) // takes the only receive buffer
	d.Send(d.Header(1000, 52, csm.OpRW), []byte("unread"))
	v.eventually("bytes at the host program", func() bool { return v.stats.TxBytes.Load() == 6 })
	s.send([]byte("last words"))
	s.Close()
	d.Send(d.Header(1000, 52, csm.OpRW), []byte("to nobody"))
	v.eventually("the write", func() bool { return v.stats.TxBytes.Load() == 15 })
	d.PostBuffers(2)
	if rw := d.Expect(csm.OpRW); string(rw.Payload) != "last words" {
		t.Fatalf("RW %q", rw.Payload)
	}
	if h := d.Expect(csm.OpShutdown); h.Flags != csm.ShutdownBoth || h.FwdCnt != 15 {
		t.Fatalf("SHUTDOWN %d with fwd_cnt %d", h.Flags, h.FwdCnt)
	}
	d.Send(d.Header(1000, 52, csm.OpRST), nil)
	v.idle()
}

// A full SHUTDOWN of the guest waits until its last byte is with the program.
func TestGuestClosesWithBytesBuffered(t *testing.T) {
	t.Parallel()
	pair(t, func(t *testing.T, v *vm, c *muxertest.Conn, s *sock) {
		data := pattern(256 << 10)
		guestWrites(t, c, data)
		c.Close()
		v.eventually("the SHUTDOWN", func() bool { return v.stats.TxPackets[csm.OpShutdown].Load() == 1 })
		s.want(data)
		s.wantEOF()
		if err := c.WaitOver(); err != muxertest.ErrReset {
			t.Fatal(err)
		}
		v.idle()
	})
}

// A guest that does not answer a full SHUTDOWN is reset after eight seconds,
// with no other traffic to remind us.
func TestUnansweredShutdown(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	p, d := v.listen(52), v.driver
	s := v.open(p, 1000, 52)
	begin := time.Now()
	s.Close()
	d.ExpectFor(1000, 52, csm.OpShutdown)
	d.ExpectFor(1000, 52, csm.OpRST)
	if took := time.Since(begin); took < 8*time.Second || took > 11*time.Second {
		t.Errorf("RST after %v, want 8 s", took)
	}
	v.count("timeouts", &v.stats.Resets[muxer.ResetTimeout], 1)
	v.idle()
}

// The host program has half-closed: nothing runs out, however long it takes.
func TestHalfClosedIsNotTimed(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	p, d := v.listen(52), v.driver
	s := v.open(p, 1000, 52)
	s.CloseWrite()
	if h := d.ExpectFor(1000, 52, csm.OpShutdown); h.Flags != csm.ShutdownSend {
		t.Fatalf("SHUTDOWN %d", h.Flags)
	}
	d.ExpectSilence(3 * time.Second)
	d.Send(d.Header(1000, 52, csm.OpRW), []byte("late"))
	s.want([]byte("late"))
}

// Every packet that a guest may have sent before it heard of our SHUTDOWN is
// tolerated while its RST is due.
func TestPacketsWhileClosing(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	p, d := v.listen(52), v.driver
	s := v.open(p, 1000, 52)
	s.Close()
	d.ExpectFor(1000, 52, csm.OpShutdown)
	for _, op := range []csm.Op{csm.OpRW, csm.OpCreditUpdate, csm.OpResponse} {
		d.Send(d.Header(1000, 52, op), nil)
	}
	d.Send(d.Header(1000, 52, csm.OpRW), []byte("late"))
	for _, q := range d.Barrier() {
		if q.Op != csm.OpCreditUpdate {
			t.Fatalf("answered by %v", q.Op)
		}
	}
	shut := d.Header(1000, 52, csm.OpShutdown)
	shut.Flags = csm.ShutdownBoth
	d.Send(shut, nil)
	d.ExpectFor(1000, 52, csm.OpRST)
	v.idle()
}

func TestShutdownFlags(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	p, d := v.listen(52), v.driver
	s := v.open(p, 1000, 52)
	shutdown := func(flags uint32) {
		h := d.Header(1000, 52, csm.OpShutdown)
		h.Flags = flags
		d.Send(h, nil)
	}
	for range 1000 {
		shutdown(0)
		shutdown(4)
	}
	d.Send(d.Header(1000, 52, csm.OpRW), []byte("alive"))
	s.want([]byte("alive"))
	shutdown(csm.ShutdownSend)
	s.wantEOF()
	s.send([]byte("answer"))
	if rw := d.Expect(csm.OpRW); string(rw.Payload) != "answer" {
		t.Fatalf("RW %q", rw.Payload)
	}
	shutdown(csm.ShutdownRcv) // they accumulate
	d.ExpectFor(1000, 52, csm.OpRST)
	v.idle()

	s = v.open(p, 1000, 52)
	shutdown(csm.ShutdownSend)
	d.Send(d.Header(1000, 52, csm.OpRW), []byte("after the end"))
	d.ExpectFor(1000, 52, csm.OpRST)
	s.wantEOF()
	v.idle()
}

// The program closes while its bytes wait for credit, and the guest then says
// that it will read no more: nothing is left to wait for.
func TestGuestStopsReadingAfterTheProgramLeft(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{driver: muxertest.Options{BufAlloc: 100}})
	p, d := v.listen(52), v.driver
	s := v.open(p, 1000, 52)
	s.send(pattern(1000))
	d.Expect(csm.OpRW)
	d.Expect(csm.OpCreditRequest)
	s.Close()
	v.do(func() {})
	h := d.Header(1000, 52, csm.OpShutdown)
	h.Flags = csm.ShutdownRcv
	d.Send(h, nil)
	if h := expectPast(t, v.driver, csm.OpShutdown); h.Flags != csm.ShutdownBoth {
		t.Fatalf("SHUTDOWN %d, want both", h.Flags)
	}
	d.Send(d.Header(1000, 52, csm.OpRST), nil)
	v.idle()
}

// An RST of the guest ends the program's connection, orderly as far as AF_UNIX
// can tell, also with bytes of it on the way.
func TestGuestResets(t *testing.T) {
	t.Parallel()
	pair(t, func(t *testing.T, v *vm, c *muxertest.Conn, s *sock) {
		guestWrites(t, c, []byte("abc"))
		s.send([]byte("def"))
		c.Reset()
		s.want([]byte("abc"))
		s.wantEOF()
		v.idle()
	})
}

// A program shuts its receiving side over bytes that it has not read. Its socket
// is full, so nothing tells but another write.
func TestHostStopsReadingWithAFullSocket(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	s := v.open(v.listen(52), 1000, 52)
	v.fill(1000, 52)
	if err := s.CloseRead(); err != nil {
		t.Fatal(err)
	}
	for {
		p, ok := v.driver.Recv(patience)
		if !ok {
			t.Fatal("the guest never hears that nobody reads")
		}
		if p.Op == csm.OpShutdown {
			if p.Flags != csm.ShutdownRcv {
				t.Fatalf("SHUTDOWN %d", p.Flags)
			}
			break
		}
	}
	v.eventually("no bytes kept for nobody", func() bool { return v.stats.Buffered.Load() == 0 })
}

// The guest stops receiving while a program waits for room to write: it has to
// see EPIPE, though the guest takes no more of what it wrote.
func TestGuestStopsReceivingFromABlockedProgram(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{driver: muxertest.Options{BufAlloc: 1000}})
	s := v.open(v.listen(52), 1000, 52)
	failed := make(chan error, 1)
	go func() {
		_, err := s.Write(pattern(8 << 20))
		failed <- err
	}()
	recvBytes(t, v.driver, 1000)
	v.eventually("a credit stall", func() bool { return v.stats.CreditStalls.Load() > 0 })
	h := v.driver.Header(1000, 52, csm.OpShutdown)
	h.Flags = csm.ShutdownRcv
	v.driver.Send(h, nil)
	select {
	case err := <-failed:
		if !errors.Is(err, unix.EPIPE) {
			t.Fatalf("write: %v, want EPIPE", err)
		}
	case <-time.After(patience):
		t.Fatal("the program waits for ever")
	}
}
