package muxer_test

import (
	"errors"
	"io"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
)

func TestGuestHalfClosesMessages(t *testing.T) {
	t.Parallel()
	messagePair(t, func(t *testing.T, v *vm, c *muxertest.Conn, s *messageSock) {
		guestSends(t, c, []byte("question"))
		guestSends(t, c, nil)
		c.Shutdown(csm.ShutdownSend)
		s.want([]byte("question"))
		s.want(nil)
		s.wantEOF()
		s.send([]byte("answer"))
		wantGuestMessage(t, c, []byte("answer"))
		s.Close()
		wantGuestMessageEOF(t, c)
		if err := c.WaitOver(); err != io.EOF {
			t.Fatal(err)
		}
		v.idle()
	})
}

func TestHostHalfClosesMessages(t *testing.T) {
	t.Parallel()
	messagePair(t, func(t *testing.T, v *vm, c *muxertest.Conn, s *messageSock) {
		s.send([]byte("question"))
		s.send(nil) // is no end of file
		s.CloseWrite()
		wantGuestMessage(t, c, []byte("question"))
		wantGuestMessage(t, c, nil)
		wantGuestMessageEOF(t, c)
		if f := c.HostShut(); f != csm.ShutdownSend {
			t.Fatalf("SHUTDOWN %d, want SEND alone", f)
		}
		guestSends(t, c, []byte("answer"))
		s.want([]byte("answer"))
		c.Close()
		s.wantEOF()
		if err := c.WaitOver(); err != muxertest.ErrReset {
			t.Fatal(err)
		}
		v.idle()
	})
}

// A program's last messages come whole, though it has closed, also those that the
// guest has no credit for yet.
func TestHostClosesWithMessagesUnread(t *testing.T) {
	t.Parallel()
	messagePair(t, func(t *testing.T, v *vm, c *muxertest.Conn, s *messageSock) {
		first, second := pattern(200<<10), pattern(212<<10)
		s.send(first)
		s.send(second)
		s.send(nil)
		s.Close()
		v.eventually("the guest's buffer is full", func() bool { return c.Unread() == csm.MaxMessage })
		wantGuestMessage(t, c, first)
		wantGuestMessage(t, c, second)
		wantGuestMessage(t, c, nil)
		wantGuestMessageEOF(t, c)
		c.Close()
		v.idle()
	})
}

// The kernel tells a program's end with guest messages unread before the messages
// that it sent.
func TestHostClosesOverMessagesOfTheGuest(t *testing.T) {
	t.Parallel()
	messagePair(t, func(t *testing.T, v *vm, c *muxertest.Conn, s *messageSock) {
		guestSends(t, c, []byte("never read"))
		v.eventually("it has left", func() bool { return v.stats.TxMessages.Load() == 1 })
		v.do(func() { // both in one turn of the loop
			s.send([]byte("last words"))
			s.Close()
		})
		wantGuestMessage(t, c, []byte("last words"))
		wantGuestMessageEOF(t, c)
		c.Close()
		v.idle()
	})
}

// A message that the guest began and will not end is dropped, for a message is
// whole or none. The whole ones before it are not.
func TestMessageWithoutEnd(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(v *vm){
		"SHUTDOWN of sending": func(v *vm) {
			h := v.messageHeader(1000, 52, csm.OpShutdown)
			h.Flags = csm.ShutdownSend
			v.driver.Send(h, nil)
		},
		"SHUTDOWN of both": func(v *vm) {
			h := v.messageHeader(1000, 52, csm.OpShutdown)
			h.Flags = csm.ShutdownBoth
			v.driver.Send(h, nil)
			v.driver.Expect(csm.OpRST)
		},
		"RST":       func(v *vm) { v.driver.Send(v.messageHeader(1000, 52, csm.OpRST), nil) },
		"violation": func(v *vm) { v.driver.Send(v.messageHeader(1000, 52, csm.OpRequest), nil); v.driver.Expect(csm.OpRST) },
		"reset of the driver": func(v *vm) {
			v.do(func() { v.m.StopQueue(0); v.m.StopQueue(1); v.m.Reset() })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVM(t, options{seqpacket: true})
			s := v.openMessages(v.listenMessages(52), 1000, 52)
			v.sendPiece(1000, 52, []byte("whole"), true)
			v.sendPiece(1000, 52, pattern(50000), false)
			v.sendPiece(1000, 52, pattern(20000), false)
			v.eventually("a message has begun", func() bool { return v.stats.BufferedBegun.Load() >= 70000 })
			end(v)
			s.want([]byte("whole"))
			s.wantEOF()
			s.Close()
			if name == "SHUTDOWN of sending" {
				v.driver.Expect(csm.OpShutdown)
				v.driver.Send(v.messageHeader(1000, 52, csm.OpRST), nil)
			}
			v.count("discarded", &v.stats.Discarded, 70000)
			v.idle()
			if n := v.stats.BufferedBegun.Load(); n != 0 {
				t.Errorf("%d bytes held for a message that is no more", n)
			}
		})
	}
}

// stuffMessages sends messages until the host socket is full and n bytes wait in
// memory, and returns how many it sent.
func (v *vm) stuffMessages(c *muxertest.Conn, message []byte, n int64) (sent int) {
	v.t.Helper()
	for v.stats.Buffered.Load() < n {
		guestSends(v.t, c, message)
		sent++
		v.eventually("it is taken", func() bool { return v.stats.TxMessages.Load() >= uint64(sent) })
		v.do(func() {})
	}
	return sent
}

// What was taken from a guest outlives its connection, message by message.
func TestMessagesOutliveTheirConnection(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(c *muxertest.Conn, v *vm){
		"close": func(c *muxertest.Conn, _ *vm) { c.Close() },
		"RST":   func(c *muxertest.Conn, _ *vm) { c.Reset() },
		"reset of the driver": func(_ *muxertest.Conn, v *vm) {
			v.do(func() { v.m.StopQueue(0); v.m.StopQueue(1); v.m.Reset() })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			messagePair(t, func(t *testing.T, v *vm, c *muxertest.Conn, s *messageSock) {
				message := pattern(30000)
				n := v.stuffMessages(c, message, 100<<10)
				end(c, v)
				for range n {
					s.want(message)
				}
				s.wantEOF()
				v.idle()
			})
		})
	}
}

// A program that closes while messages of the guest wait for it in our memory.
func TestHostClosesWithMessagesWaiting(t *testing.T) {
	t.Parallel()
	messagePair(t, func(t *testing.T, v *vm, c *muxertest.Conn, s *messageSock) {
		v.stuffMessages(c, pattern(30000), 100<<10)
		s.send([]byte("last words"))
		s.Close()
		wantGuestMessage(t, c, []byte("last words"))
		wantGuestMessageEOF(t, c)
		c.Close()
		v.idle()
		if v.stats.Discarded.Load() < 90000 {
			t.Error("what nobody can read is not counted")
		}
	})
}

// A program that shuts its receiving side is told nothing more, also not the end
// of a message that had begun; what it sends still comes.
func TestHostStopsReadingMessages(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{seqpacket: true})
	d := v.driver
	s := v.openMessages(v.listenMessages(52), 1000, 52)
	v.sendPiece(1000, 52, []byte("begun, "), false)
	v.eventually("a message has begun", func() bool { return v.stats.BufferedBegun.Load() > 0 })
	if err := s.CloseRead(); err != nil {
		t.Fatal(err)
	}
	v.sendPiece(1000, 52, []byte("ended"), true)
	if h := d.Expect(csm.OpShutdown); h.Flags != csm.ShutdownRcv {
		t.Fatalf("SHUTDOWN %d, want RCV alone", h.Flags)
	}
	v.sendPiece(1000, 52, []byte("on its "), false)
	v.sendPiece(1000, 52, []byte("way"), true)
	v.count("discarded", &v.stats.Discarded, uint64(len("begun, ended")+len("on its way")))
	s.send([]byte("still here"))
	if p := d.Expect(csm.OpRW); string(p.Payload) != "still here" {
		t.Fatalf("received %q", p.Payload)
	}
}

// A guest that receives no more: the program's messages are read away, and it
// learns by EPIPE.
func TestGuestStopsReadingMessages(t *testing.T) {
	t.Parallel()
	messagePair(t, func(t *testing.T, v *vm, c *muxertest.Conn, s *messageSock) {
		s.send(pattern(200 << 10))
		s.send(pattern(200 << 10)) // in its middle
		v.eventually("the guest's buffer is full", func() bool { return c.Unread() == csm.MaxMessage })
		c.Shutdown(csm.ShutdownRcv)
		for {
			if err := s.trySend([]byte("more")); err != nil {
				if !errors.Is(err, unix.EPIPE) {
					t.Fatalf("host program sends: %v, want EPIPE", err)
				}
				break
			}
		}
		guestSends(t, c, []byte("still here"))
		s.want([]byte("still here"))
		c.Close()
		s.wantEOF()
		v.idle()
	})
}

// Messages that nobody takes are read away before their socket is closed, so that
// the program sees end of file and not a failure; a thousand of them, too.
func TestUnreadMessagesAreReadAway(t *testing.T) {
	t.Parallel()
	messagePair(t, func(t *testing.T, v *vm, c *muxertest.Conn, s *messageSock) {
		done := make(chan error, 1)
		go func() {
			var err error
			for err == nil {
				err = s.trySend([]byte("x"))
			}
			done <- err
		}()
		v.eventually("the guest reads no more", func() bool { return c.UnreadMessages() == 256 })
		c.Close()
		if err := <-done; !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
			t.Fatalf("host program sends: %v", err)
		}
		s.wantEOF()
		v.idle()
	})
}

// The daemon ends: the guest gets RST, the program the messages that are its own.
func TestShutdownDeliversMessages(t *testing.T) {
	t.Parallel()
	messagePair(t, func(t *testing.T, v *vm, c *muxertest.Conn, s *messageSock) {
		message := pattern(30000)
		n := v.stuffMessages(c, message, 100<<10)
		done := make(chan struct{})
		v.loop.Do(func() { v.m.Shutdown(func() { close(done) }) })
		if err := c.WaitOver(); err != muxertest.ErrReset {
			t.Fatal(err)
		}
		for range n {
			s.want(message)
		}
		s.wantEOF()
		<-done
		v.count("shutdown", &v.stats.Resets[muxer.ResetShutdown], 1)
	})
}
