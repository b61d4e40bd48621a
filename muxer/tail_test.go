package muxer_test

import (
	"slices"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
)

// fill sends bytes that the host program does not read until some wait in memory,
// and returns them.
func (v *vm) fill(guestPort, hostPort uint32) (data []byte) {
	v.t.Helper()
	for v.stats.Buffered.Load() == 0 {
		data = pattern(len(data) + csm.MaxPayload)
		v.sendPayload(guestPort, hostPort, data[len(data)-csm.MaxPayload:])
	}
	return data
}

// fillWindow sends as many bytes as a window has, and returns them.
func (v *vm) fillWindow(guestPort, hostPort uint32) []byte {
	v.t.Helper()
	data := pattern(256 << 10)
	v.sendPayload(guestPort, hostPort, data)
	v.eventually("bytes buffered", func() bool { return v.stats.Buffered.Load() > 0 })
	return data
}

// sendPayload returns once the device has taken it.
func (v *vm) sendPayload(guestPort, hostPort uint32, data []byte) {
	v.t.Helper()
	for packet := range slices.Chunk(data, csm.MaxPayload) {
		v.driver.Send(v.driver.Header(guestPort, hostPort, csm.OpRW), packet)
	}
	if !v.driver.WaitTx(patience) {
		v.t.Fatal("the tx ring stands still")
	}
	v.do(func() {}) // the turn is over, and what it has counted can be seen
}

// The guest is done with a connection, one way or another, while bytes of it wait
// for the host program: every one of them arrives, and then end of file.
func TestBytesOutliveTheirConnection(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(v *vm){
		"RST": func(v *vm) {
			v.driver.Send(v.driver.Header(1000, 52, csm.OpRST), nil)
		},
		"SHUTDOWN(SEND), RST": func(v *vm) {
			h := v.driver.Header(1000, 52, csm.OpShutdown)
			h.Flags = csm.ShutdownSend
			v.driver.Send(h, nil)
			v.driver.Send(v.driver.Header(1000, 52, csm.OpRST), nil)
		},
		"SHUTDOWN(both), RST": func(v *vm) {
			h := v.driver.Header(1000, 52, csm.OpShutdown)
			h.Flags = csm.ShutdownBoth
			v.driver.Send(h, nil)
			v.driver.Send(v.driver.Header(1000, 52, csm.OpRST), nil)
		},
		"violation":   func(v *vm) { v.driver.Send(v.driver.Header(1000, 52, csm.OpRequest), nil) },
		"reset":       func(v *vm) { v.pause(); v.do(v.m.Reset) },
		"session end": func(v *vm) { v.pause(); v.do(func() { v.m.Reset(); v.m.Detach() }) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVM(t, options{})
			s := v.open(v.listen(52), 1000, 52)
			data := v.fill(1000, 52)
			end(v)
			v.eventually("a tail", func() bool { return v.stats.Tails.Load() == 1 })
			s.want(data)
			s.wantEOF()
			v.idle()
			if n := v.stats.Discarded.Load(); n != 0 {
				t.Errorf("%d bytes discarded", n)
			}
		})
	}
}

// A program that writes a lot before it reads would wait for ever if nobody took
// what it writes.
func TestTailReadsAway(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	s := v.open(v.listen(52), 1000, 52)
	data := v.fill(1000, 52)
	v.driver.Send(v.driver.Header(1000, 52, csm.OpRST), nil)
	v.eventually("a tail", func() bool { return v.stats.Tails.Load() == 1 })
	s.send(pattern(3 << 20))
	s.want(data)
	s.wantEOF()
	v.idle()
}

func TestTailEndsWhenTheProgramLeaves(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	s := v.open(v.listen(52), 1000, 52)
	v.fill(1000, 52)
	v.driver.Send(v.driver.Header(1000, 52, csm.OpRST), nil)
	v.eventually("a tail", func() bool { return v.stats.Tails.Load() == 1 })
	s.CloseWrite() // is not leaving
	v.do(func() {})
	if v.stats.Tails.Load() != 1 {
		t.Fatal("the tail ended with the program's sending side")
	}
	s.Close()
	v.idle()
}

// A tail whose OK the client has not even taken.
func TestTailBehindAnOK(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	l := v.guest().Listen(52)
	s := v.client("CONNECT 52\n")
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	guestWrites(t, c, []byte("result"))
	c.Reset()
	v.eventually("a tail", func() bool { return v.stats.Tails.Load() == 1 })
	s.wantOK()
	s.want([]byte("result"))
	s.wantEOF()
	v.idle()
}

// Tails count against the limits, and free the ports at once.
func TestTailsCount(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{Config: muxer.Config{MaxConnections: 2}})
	p, d := v.listen(52), v.driver
	s := v.open(p, 1000, 52)
	data := v.fill(1000, 52)
	d.Send(d.Header(1000, 52, csm.OpRST), nil)
	for d.Posted() < 128 { // credit updates are on the way
		if _, ok := d.TryRecv(); !ok {
			break
		}
	}
	d.Send(d.Header(1000, 52, csm.OpRequest), nil)
	for {
		if q, ok := d.Recv(patience); !ok {
			t.Fatal("no RESPONSE")
		} else if q.Op == csm.OpResponse {
			break
		}
	}
	s2 := p.accept()
	d.Send(d.Header(1001, 52, csm.OpRequest), nil)
	d.ExpectFor(1001, 52, csm.OpRST)
	v.count("limit", &v.stats.Resets[muxer.ResetLimit], 1)
	d.Send(d.Header(1000, 52, csm.OpRW), []byte("second"))
	s2.want([]byte("second"))
	s.want(data)
	s.wantEOF()
}
