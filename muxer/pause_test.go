package muxer_test

import (
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
)

// Connections live on while the guest is paused, under load, and not a byte is
// lost or seen twice.
func TestConnectionsSurviveAPause(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	p, g := v.listen(52), v.guest()
	c, s := v.dial(g, p, 52)
	data := pattern(8 << 20)
	done := make(chan struct{})
	go func() { defer close(done); s.want(data) }()
	go s.Write(data)
	go c.Write(data)
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		wantGuest(t, c, data)
	}()
	for pauses := 0; ; pauses++ {
		select {
		case <-stop:
			<-done
			if pauses < 5 {
				t.Errorf("only %d pauses", pauses)
			}
			return
		default:
			v.pause()
			v.resume()
		}
	}
}

// What a guest owes does not grow old while it is paused.
func TestGuestsClockStandsStillInAPause(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	d := v.driver
	s := v.client("CONNECT 52\n")
	q := d.Expect(csm.OpRequest)
	v.pause()
	time.Sleep(2500 * time.Millisecond)
	if got := v.stats.Connections[muxer.PhaseConnecting][muxer.HostInitiated].Load(); got != 1 {
		t.Fatal("the request timed out in a pause")
	}
	v.resume()
	d.Send(d.Header(52, q.SrcPort, csm.OpResponse), nil)
	s.wantOK()
	s.send([]byte("alive"))
	if rw := d.Expect(csm.OpRW); string(rw.Payload) != "alive" {
		t.Fatalf("RW %q", rw.Payload)
	}

	begin := time.Now()
	v.client("CONNECT 53\n")
	q = d.Expect(csm.OpRequest)
	time.Sleep(time.Second)
	v.pause()
	time.Sleep(2 * time.Second)
	v.resume()
	d.ExpectFor(53, q.SrcPort, csm.OpRST)
	if took := time.Since(begin); took < 4*time.Second || took > 7*time.Second {
		t.Errorf("RST after %v of which 2 s were a pause, want 4 s", took)
	}
}

// The rings stop and start one after the other, and the event ring means nothing.
func TestOneRingStops(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	p, d := v.listen(52), v.driver
	s := v.open(p, 1000, 52)
	v.do(func() { v.m.StartQueue(2, nil); v.m.Kick(2); v.m.StopQueue(2) })
	d.Send(d.Header(1000, 52, csm.OpRW), []byte("a"))
	s.want([]byte("a"))
	for index := range 2 {
		v.do(func() { v.m.StopQueue(index) })
		s.send([]byte("b"))
		d.Send(d.Header(1000, 52, csm.OpRW), []byte("c"))
		v.do(func() { v.start(index) })
		if rw := d.Expect(csm.OpRW); string(rw.Payload) != "b" {
			t.Fatalf("RW %q", rw.Payload)
		}
		s.want([]byte("c"))
	}
	v.do(func() { v.m.StopQueue(2) })
	s.Close() // timers run all the same
	d.Expect(csm.OpShutdown)
	d.ExpectFor(1000, 52, csm.OpRST)
}

// "Print the result, then power off": what the driver had published when its
// rings stop still arrives, however much it is and whatever the ring waits for.
func TestStopServesTheTxRingToItsEnd(t *testing.T) {
	t.Parallel()
	for name, buffered := range map[string]int64{"more than a turn": 256 << 20, "at the bound on memory": 16 << 10} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVM(t, options{ringSize: 1024, Config: muxer.Config{MaxBuffered: buffered}})
			p := v.listen(52)
			stalled, s := v.open(p, 999, 52), v.open(p, 1000, 52)
			other := v.fill(999, 52)
			data := pattern(600 << 8)
			v.do(func() { // between two turns of the loop
				for i := range 600 {
					v.driver.Add(v.driver.Header(1000, 52, csm.OpRW), data[i<<8:(i+1)<<8])
				}
				v.driver.Send(v.driver.Header(1000, 52, csm.OpRST), nil)
				v.m.StopQueue(0)
				v.m.StopQueue(1)
				v.m.Reset()
				v.m.Detach()
			})
			if n := v.driver.InFlight(); n != 0 {
				t.Errorf("%d descriptors were not used", n)
			}
			s.want(data)
			s.wantEOF()
			stalled.want(other)
			stalled.wantEOF()
			v.idle()
		})
	}
}

// A guest that goes on publishing does not keep its rings from stopping.
func TestStopIsBounded(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	v.listen(52)
	g := v.guest()
	over := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-over:
				return
			default:
				g.Raw(func(d *muxertest.Driver) {
					h := d.Header(1, 1, csm.OpRST)
					for d.TryAdd(h, nil) {
						d.Kick()
					}
				})
			}
		}
	}()
	for range 200 {
		v.pause()
		v.resume()
	}
	close(over)
	<-ended
}

// A reset forgets the guest's connections; programs see end of file, and the new
// driver hears nothing of the old.
func TestResetDropsConnections(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	p, d := v.listen(52), v.driver
	s := v.open(p, 1000, 52)
	asked := v.client("CONNECT 53\n")
	d.Expect(csm.OpRequest)
	v.pause()
	s.send([]byte("for nobody"))
	waits := v.client("CONNECT 54\npayload")
	v.eventually("the client waits", func() bool { return v.stats.Clients.Load() == 1 })
	v.do(v.m.Reset)
	s.wantEOF()
	asked.wantEOF()
	v.resume()
	q := d.Expect(csm.OpRequest) // for the client that waits
	if q.DstPort != 54 {
		t.Fatalf("REQUEST for port %d", q.DstPort)
	}
	if got := d.Barrier(); len(got) != 0 {
		t.Fatalf("received %v", got)
	}
	d.Send(d.Header(54, q.SrcPort, csm.OpResponse), nil)
	waits.wantOK()
	if rw := d.Expect(csm.OpRW); string(rw.Payload) != "payload" {
		t.Fatalf("RW %q", rw.Payload)
	}
	v.open(p, 1000, 52)
}

// A client whose REQUEST was not in the ring when the guest went down waits for
// the next guest, by its own clock.
func TestUnaskedClientSurvivesAReset(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{driver: muxertest.Options{Buffers: -1}})
	d := v.driver
	s := v.client("CONNECT 52\n")
	v.eventually("a REQUEST waits", func() bool { return v.stats.Connections[muxer.PhaseConnecting][muxer.HostInitiated].Load() == 1 })
	v.pause()
	v.do(v.m.Reset)
	if v.stats.Clients.Load() != 1 {
		t.Fatal("the client does not wait")
	}
	v.resume()
	d.PostBuffers(8)
	q := d.Expect(csm.OpRequest)
	d.Send(d.Header(52, q.SrcPort, csm.OpResponse), nil)
	s.wantOK()
}

// A guest that is gone owes nothing: deadlines of its clock, which stands still from then
// on, keep nothing of its connections in memory.
func TestDetachForgetsTheGuestsDeadlines(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	for range 10 {
		v.client("CONNECT 52\n")
		v.driver.Expect(csm.OpRequest)
	}
	v.do(func() { v.stopAll(); v.m.Detach() })
	// Those of the host's clock come in time.
	v.eventually("no deadline is left", func() bool { return v.stats.KillQueueDepth.Load() == 0 })
}
