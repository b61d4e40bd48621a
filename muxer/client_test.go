package muxer_test

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
)

func TestConnectLineInPieces(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	l := v.guest().Listen(1234)
	s := v.connect()
	for _, b := range []byte("connect 1234\r\n") {
		s.send([]byte{b})
		v.do(func() {}) // the muxer sees every byte on its own
	}
	s.wantOK()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s.send([]byte("abc"))
	wantGuest(t, c, []byte("abc"))
}

// Every byte behind the line arrives, and the guest's answer too.
func TestPayloadPipelinedBehindTheLine(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 20, 4000, 100 << 10} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			v := newVM(t, options{})
			l := v.guest().Listen(1234)
			data := pattern(n)
			s := v.client("CONNECT 1234\n" + string(data))
			s.CloseWrite() // as socat does
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			wantGuest(t, c, data)
			wantGuestEOF(t, c)
			guestWrites(t, c, []byte("answer"))
			c.Close()
			s.wantOK()
			s.want([]byte("answer"))
			s.wantEOF()
			v.idle()
		})
	}
}

func TestBadConnectLines(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	v.guest().Listen(52)
	lines := []string{
		"\n", "CONN\n", "GET / HTTP/1.1\r\n\r\n", "CONNECT\n", "CONNECT x\n", "CONNECT -1\n", "CONNECT 4294967296\n",
		"CONNECT 52 x\n", "CONNECT 52\x00\n", "CONNECT " + strings.Repeat(" ", 40), "\xff\xfe",
		"CONNECT x\n" + string(pattern(60<<10)), // and more than that is read away
	}
	for _, line := range lines {
		v.client(line).wantEOF()
	}
	v.count("bad lines", &v.stats.Handshakes[muxer.HandshakeBadLine], uint64(len(lines)))
	v.idle()
}

// With no other traffic, two seconds are the limit for a line.
func TestConnectLineTimesOut(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"", "CONNECT 5"} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			v := newVM(t, options{})
			begin := time.Now()
			v.client(line).wantEOF()
			if took := time.Since(begin); took < 2*time.Second || took > 4*time.Second {
				t.Errorf("closed after %v, want 2 s", took)
			}
			v.count("timeouts", &v.stats.Handshakes[muxer.HandshakeTimeout], 1)
			v.idle()
		})
	}
}

func TestManySilentClientsTimeOut(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	var clients []*sock
	for range 300 {
		clients = append(clients, v.client("CON"))
	}
	l := v.guest().Listen(52)
	v.call(l, 52) // the others are in nobody's way
	for _, s := range clients {
		s.wantEOF()
	}
	v.count("timeouts", &v.stats.Handshakes[muxer.HandshakeTimeout], 300)
}

func TestClientLeavesDuringItsLine(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	s := v.connect()
	s.Close()
	s = v.client("CONNECT 5")
	s.Close()
	s = v.client("CONNECT 5")
	s.CloseWrite()
	s.wantEOF()
	v.count("gone", &v.stats.Handshakes[muxer.HandshakeGone], 3)
	v.idle()
}

func TestGuestRefusesTheClient(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	v.guest()
	v.client("CONNECT 52\n").wantEOF()
	v.client("CONNECT 52\npayload").wantEOF()
	v.client("CONNECT 52\n" + string(pattern(50<<10))).wantEOF()
	v.count("refused", &v.stats.Handshakes[muxer.HandshakeRefused], 3)
	v.idle()
}

// A guest that says nothing to a REQUEST: two seconds, then RST for it and end
// of file for the client.
func TestGuestIgnoresTheRequest(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	begin := time.Now()
	s := v.client("CONNECT 52\npayload")
	q := v.driver.Expect(csm.OpRequest)
	v.driver.ExpectFor(52, q.SrcPort, csm.OpRST)
	if took := time.Since(begin); took < 2*time.Second || took > 4*time.Second {
		t.Errorf("RST after %v, want 2 s", took)
	}
	s.wantEOF()
	v.count("silent", &v.stats.Handshakes[muxer.HandshakeSilent], 1)
	v.idle()
	late := v.driver.Header(52, q.SrcPort, csm.OpResponse) // its answer is a stranger's now
	v.driver.Send(late, nil)
	v.driver.ExpectFor(52, q.SrcPort, csm.OpRST)
}

func TestRequestOfAClient(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	v.client("CONNECT 4294967295\n")
	q := v.driver.Expect(csm.OpRequest)
	want := csm.Header{
		SrcCID: 2, DstCID: 3, SrcPort: q.SrcPort, DstPort: 1<<32 - 1, Type: 1, Op: csm.OpRequest, BufAlloc: 256 << 10,
	}
	if q.Header != want || q.SrcPort < 1024 || q.SrcPort > 65535 {
		t.Fatalf("REQUEST %+v", q.Header)
	}
}

func TestOKPorts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		mode muxer.OKPort
		want func(host, ok int) bool
	}{
		{muxer.OKShort, func(host, ok int) bool { return ok == host && ok >= 1024 && ok <= 65535 }},
		{muxer.OKHost, func(host, ok int) bool { return ok == host && ok >= 1<<30 && ok < 1<<31 }},
		{muxer.OKGuest, func(host, ok int) bool { return ok == 52 }},
	} {
		v := newVM(t, options{Config: muxer.Config{OKPort: test.mode}})
		l := v.guest().Listen(52)
		var last uint32
		for range 3 {
			s := v.client("CONNECT 52\n")
			ok := s.wantOK()
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if !test.want(int(c.HostPort()), ok) || c.HostPort() == last {
				t.Errorf("mode %d: OK %d for host port %d", test.mode, ok, c.HostPort())
			}
			last = c.HostPort()
			s.Close()
		}
	}
}

// Guest bytes wait until the client has taken the whole OK line, for many
// clients read more than the line and lose it.
func TestOKIsReadAlone(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	l := v.guest().Listen(52)
	s := v.client("CONNECT 52\n")
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	data := pattern(100 << 10)
	guestWrites(t, c, data)
	v.eventually("the bytes wait", func() bool { return v.stats.TxBytes.Load() == uint64(len(data)) })
	var b [4096]byte
	n, err := s.Read(b[:])
	if err != nil || !bytes.HasPrefix(b[:n], []byte("OK ")) || b[n-1] != '\n' || bytes.Count(b[:n], []byte("\n")) != 1 {
		t.Fatalf("first read: %q, %v", b[:n], err)
	}
	s.want(data)
	guestWrites(t, c, []byte("more"))
	s.want([]byte("more"))
	s.Close()
	wantGuestEOF(t, c)
	v.idle()
}

// The same with a client that takes the line byte by byte: nothing comes between,
// and the guest's close waits as well.
func TestOKReadByteByByte(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	l := v.guest().Listen(52)
	s := v.client("CONNECT 52\n")
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	guestWrites(t, c, []byte("banner"))
	c.Close()
	v.eventually("SHUTDOWN", func() bool { return v.stats.TxPackets[csm.OpShutdown].Load() == 1 })
	var b [1]byte
	for line := ""; !strings.HasSuffix(line, "\n"); line += string(b[:]) {
		s.want(b[:0])
		if _, err := io.ReadFull(s, b[:]); err != nil {
			t.Fatal(err)
		}
		v.do(func() {})
		if strings.Contains(line, "b") {
			t.Fatalf("OK line %q", line)
		}
	}
	s.want([]byte("banner"))
	s.wantEOF()
	v.idle()
}

func TestClientLeavesWithoutReadingItsOK(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	l := v.guest().Listen(52)
	s := v.client("CONNECT 52\n")
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	guestWrites(t, c, []byte("banner"))
	v.eventually("the banner waits", func() bool { return v.stats.Buffered.Load() > 0 })
	s.send([]byte("parting words"))
	s.Close()
	wantGuest(t, c, []byte("parting words"))
	wantGuestEOF(t, c)
	c.Close()
	v.idle()
}

// A client that left before its OK: its bytes are delivered if there are any, and
// without any there is no connection to nobody.
func TestClientLeavesBeforeItsOK(t *testing.T) {
	t.Parallel()
	t.Run("with bytes", func(t *testing.T) {
		t.Parallel()
		v := newVM(t, options{})
		d := v.driver
		s := v.client("CONNECT 52\nnotify")
		q := d.Expect(csm.OpRequest)
		s.Close()
		v.do(func() {})
		d.Send(d.Header(52, q.SrcPort, csm.OpResponse), nil)
		if rw := d.ExpectFor(52, q.SrcPort, csm.OpRW); string(rw.Payload) != "notify" {
			t.Fatalf("RW %q", rw.Payload)
		}
		if h := d.Expect(csm.OpShutdown); h.Flags != csm.ShutdownBoth {
			t.Fatalf("SHUTDOWN %d", h.Flags)
		}
		d.Send(d.Header(52, q.SrcPort, csm.OpRST), nil)
		v.idle()
	})
	t.Run("without", func(t *testing.T) {
		t.Parallel()
		v := newVM(t, options{})
		d := v.driver
		s := v.client("CONNECT 52\n")
		q := d.Expect(csm.OpRequest)
		s.Close()
		v.count("gone", &v.stats.Handshakes[muxer.HandshakeGone], 1)
		d.Send(d.Header(52, q.SrcPort, csm.OpResponse), nil)
		d.ExpectFor(52, q.SrcPort, csm.OpRST)
		v.count("resets", &v.stats.Resets[muxer.ResetClientGone], 1)
		v.idle()
	})
	t.Run("without, as the guest answers", func(t *testing.T) {
		t.Parallel()
		v := newVM(t, options{})
		d := v.driver
		s := v.client("CONNECT 52\n")
		q := d.Expect(csm.OpRequest)
		v.held(func() {
			d.Send(d.Header(52, q.SrcPort, csm.OpResponse), nil)
			v.loop.Do(func() { // the RESPONSE is found by this turn's look at the ring
				s.Close()
				v.m.Kick(1)
			})
		})
		d.ExpectFor(52, q.SrcPort, csm.OpRST)
		v.count("gone", &v.stats.Handshakes[muxer.HandshakeGone], 1)
		v.count("resets", &v.stats.Resets[muxer.ResetClientGone], 1)
		v.idle()
	})
	t.Run("without, and before it was accepted", func(t *testing.T) {
		t.Parallel()
		v := newVM(t, options{})
		v.held(func() {
			s := v.client("CONNECT 52\n")
			s.Close()
		})
		v.count("gone", &v.stats.Handshakes[muxer.HandshakeGone], 1)
		v.idle()
		if n := v.stats.RxPackets[csm.OpRequest].Load(); n != 0 {
			t.Errorf("the guest was asked %d times", n)
		}
	})
	t.Run("with bytes, and before it was accepted", func(t *testing.T) {
		t.Parallel()
		v := newVM(t, options{})
		d := v.driver
		v.held(func() {
			s := v.client("CONNECT 52\nnotify")
			s.Close()
		})
		q := d.Expect(csm.OpRequest)
		d.Send(d.Header(52, q.SrcPort, csm.OpResponse), nil)
		if rw := d.ExpectFor(52, q.SrcPort, csm.OpRW); string(rw.Payload) != "notify" {
			t.Fatalf("RW %q", rw.Payload)
		}
		d.ExpectFor(52, q.SrcPort, csm.OpShutdown)
		d.Send(d.Header(52, q.SrcPort, csm.OpRST), nil)
		v.idle()
	})
	t.Run("before the guest was asked", func(t *testing.T) {
		t.Parallel()
		v := newVM(t, options{paused: true})
		s := v.client("CONNECT 52\n")
		v.eventually("the client waits", func() bool { return v.stats.Clients.Load() == 1 })
		s.Close()
		v.count("gone", &v.stats.Handshakes[muxer.HandshakeGone], 1)
		v.resume()
		v.driver.Barrier()
		v.idle()
	})
	t.Run("while no buffer is posted", func(t *testing.T) {
		t.Parallel()
		v := newVM(t, options{driver: muxertest.Options{Buffers: -1}})
		s := v.client("CONNECT 52\n")
		v.eventually("the request waits", func() bool { return v.stats.Connections[muxer.PhaseConnecting][muxer.HostInitiated].Load() == 1 })
		s.Close()
		v.count("gone", &v.stats.Handshakes[muxer.HandshakeGone], 1)
		v.idle()
		v.driver.PostBuffers(2)
		if got := v.driver.Barrier(); len(got) != 0 {
			t.Fatalf("the guest was asked nevertheless: %v", got)
		}
	})
}

// While there is no guest a client is heard out and then sees end of file; never
// EPIPE, ECONNRESET or an endless wait.
func TestClientWithoutGuest(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{paused: true})
	v.do(v.m.Detach)
	for _, payload := range []string{"", "payload", string(pattern(50 << 10))} {
		s := v.connect()
		v.do(func() {})
		s.send([]byte("CONN"))
		v.do(func() {})
		s.send([]byte("ECT 52\n" + payload))
		s.wantEOF()
	}
	v.count("no guest", &v.stats.Handshakes[muxer.HandshakeNoGuest], 3)
	v.idle()
}

// A frontend without driver yet, or with a paused one: a client waits two seconds.
func TestClientOfAPausedGuest(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{paused: true})
	begin := time.Now()
	s := v.client("CONNECT 52\n")
	s.wantEOF()
	if took := time.Since(begin); took < 2*time.Second || took > 4*time.Second {
		t.Errorf("closed after %v, want 2 s", took)
	}
	v.idle()
}

func TestWaitingClientsAreServedOnceAGuestIsUp(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{paused: true})
	l := v.guest().Listen(52)
	s := v.client("CONNECT 52\npayload")
	v.eventually("the client waits", func() bool { return v.stats.Clients.Load() == 1 })
	v.resume()
	s.wantOK()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	wantGuest(t, c, []byte("payload"))
}

// A session's end refuses those who wait for its guest.
func TestDetachRefusesWaitingClients(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{paused: true})
	s := v.client("CONNECT 52\npayload")
	v.eventually("the client waits", func() bool { return v.stats.Clients.Load() == 1 })
	v.do(func() { v.m.Reset(); v.m.Detach() })
	s.wantEOF()
	v.idle()
}
