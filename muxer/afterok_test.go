package muxer_test

import (
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
)

// okGrace is for how long nothing follows an OK that is found taken.
const okGrace = 2 * time.Millisecond

// asked is a guest that was asked for a connection of its port 52, by a client that has
// sent bytes before its OK, or none. Time stands still.
type asked struct {
	stalledVM
	client *sock
	header csm.Header
}

func newAsked(t *testing.T, early string) *asked {
	v := newStalledVM(t, options{})
	a := &asked{stalledVM: v, client: v.client("CONNECT 52\n" + early)}
	a.header = v.driver.Header(52, v.driver.Expect(csm.OpRequest).SrcPort, csm.OpResponse)
	return a
}

// say has the guest send a packet, which is taken when say returns.
func (a *asked) say(op csm.Op, payload string) {
	a.t.Helper()
	taken := &a.stats.TxPackets[op]
	before := taken.Load()
	a.header.Op = op
	a.driver.Send(a.header, []byte(payload))
	a.count("packets taken", taken, before+1)
}

// hears wants the client's bytes to reach the guest.
func (a *asked) hears(text string) {
	a.t.Helper()
	if p := a.driver.ExpectFor(52, a.header.DstPort, csm.OpRW); string(p.Payload) != text {
		a.t.Fatalf("the guest reads %q, want %q", p.Payload, text)
	}
}

func (a *asked) wantHeld(want bool) {
	a.t.Helper()
	a.do(func() {
		if held := a.stats.Buffered.Load() > 0; held != want {
			a.t.Errorf("bytes are held: %v, want %v", held, want)
		}
	})
}

// wantAfterGrace wants the client to read this, but not before okGrace.
func (a *asked) wantAfterGrace(text string) {
	a.t.Helper()
	a.wantHeld(true)
	a.pass(okGrace - 1)
	a.wantHeld(true)
	a.pass(1)
	a.client.want([]byte(text))
}

// A client that has taken its OK just now may be in that very call still, which would
// take what follows as well.
func TestNothingFollowsAnOKTooSoon(t *testing.T) {
	t.Parallel()
	for name, try := range map[string]struct {
		early  string
		stalls uint64 // how often the client keeps the guest waiting
		act    func(a *asked)
	}{
		"the guest speaks": {"", 0, func(a *asked) {
			a.say(csm.OpResponse, "")
			a.pass(time.Second) // nobody knows when it was taken
			a.client.wantOK()
			a.say(csm.OpRW, "banner")
			a.wantAfterGrace("banner")
			a.say(csm.OpRW, "more")
			a.wantHeld(false)
			a.client.want([]byte("more"))
		}},
		"the OK is taken later": {"", 1, func(a *asked) {
			a.say(csm.OpResponse, "")
			a.say(csm.OpRW, "banner")
			a.pass(time.Second)
			a.wantHeld(true)
			a.client.wantOK()
			a.wantAfterGrace("banner")
			a.all(&a.stats.HostStalled, time.Second)
		}},
		"the turn in which it is found taken has lasted": {"", 0, func(a *asked) {
			a.say(csm.OpResponse, "")
			a.header.Op = csm.OpRW
			a.held(func() {
				a.driver.Send(a.header, []byte("banner"))
				a.loop.Do(func() {
					a.clock.Add(int64(time.Second))
					a.client.wantOK()
					a.m.Kick(1)
				})
			})
			a.count("packets taken", &a.stats.TxPackets[csm.OpRW], 1)
			a.wantAfterGrace("banner")
		}},
		"the client speaks after its OK": {"", 0, func(a *asked) {
			a.say(csm.OpResponse, "")
			a.client.wantOK()
			a.client.send([]byte("request"))
			a.hears("request")
			a.say(csm.OpRW, "reply")
			a.wantHeld(false)
			a.client.want([]byte("reply"))
		}},
		"it speaks while bytes are held": {"", 0, func(a *asked) {
			a.say(csm.OpResponse, "")
			a.client.wantOK()
			a.say(csm.OpRW, "banner")
			a.wantHeld(true)
			a.client.send([]byte("request"))
			a.hears("request")
			a.wantHeld(false)
			a.client.want([]byte("banner"))
		}},
		"it speaks over an OK that it does not take": {"", 1, func(a *asked) {
			a.say(csm.OpResponse, "")
			a.client.send([]byte("request"))
			a.hears("request")
			a.say(csm.OpRW, "reply")
			a.client.wantOK()
			a.wantAfterGrace("reply")
		}},
		"it spoke before its OK": {"request", 1, func(a *asked) {
			a.say(csm.OpResponse, "")
			a.hears("request")
			a.say(csm.OpRW, "reply")
			a.client.wantOK()
			a.do(func() {})
			a.client.send([]byte("more")) // which makes an event
			a.hears("more")
			a.wantAfterGrace("reply")
		}},
		"what it spoke before has to wait for credit": {"request", 0, func(a *asked) {
			a.header.BufAlloc = 0
			a.say(csm.OpResponse, "")
			a.client.wantOK()
			a.driver.ExpectFor(52, a.header.DstPort, csm.OpCreditRequest)
			a.header.BufAlloc = 1 << 10
			a.say(csm.OpCreditUpdate, "")
			a.hears("request")
			a.say(csm.OpRW, "reply")
			a.wantAfterGrace("reply")
		}},
		"it spoke when the guest answered": {"", 0, func(a *asked) {
			a.held(func() {
				a.driver.Send(a.header, nil)
				a.loop.Do(func() { // the RESPONSE is found by this turn's look at the ring
					a.client.send([]byte("request"))
					a.m.Kick(1)
					a.loop.Do(func() { a.client.wantOK() }) // before the event of it
				})
			})
			a.hears("request")
			a.say(csm.OpRW, "reply")
			a.wantAfterGrace("reply")
		}},
		"the guest leaves": {"", 0, func(a *asked) {
			a.say(csm.OpResponse, "")
			a.client.wantOK()
			a.say(csm.OpRW, "last words")
			a.say(csm.OpRST, "")
			a.wantAfterGrace("last words")
			a.client.wantEOF()
		}},
		"the guest leaves before the OK is taken": {"", 1, func(a *asked) {
			a.say(csm.OpResponse, "")
			a.say(csm.OpRW, "last words")
			a.say(csm.OpRST, "")
			a.client.wantOK()
			a.wantAfterGrace("last words")
			a.client.wantEOF()
		}},
		"the daemon ends": {"", 0, func(a *asked) {
			a.say(csm.OpResponse, "")
			a.client.wantOK()
			a.say(csm.OpRW, "last words")
			done := make(chan struct{})
			a.do(func() { a.m.Shutdown(func() { close(done) }) })
			a.wantAfterGrace("last words")
			<-done
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAsked(t, try.early)
			try.act(a)
			if n := a.stats.Handshakes[muxer.HandshakeOK].Load(); n != 1 {
				t.Errorf("%d OKs were counted", n)
			}
			a.count("host stalls", &a.stats.HostStalls, try.stalls)
		})
	}
}
