package muxer_test

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
)

// answers are how many REQUESTs had their answer, and how long these took together.
type answers struct {
	n    uint64
	took float64
}

// answered wants REQUESTs of one side to have been answered, and in no other way.
func (v stalledVM) answered(by muxer.Direction, want map[muxer.Answer]answers) {
	v.t.Helper()
	v.do(func() {})
	for d := range muxer.Directions {
		for a, name := range muxer.Answers {
			var w answers
			if d == int(by) {
				w = want[muxer.Answer(a)]
			}
			n, took, _ := v.stats.Answered[d][a].Load()
			if (answers{n, took}) != w {
				v.t.Errorf("%s's REQUESTs: %d answered by %s in %v s, want %+v", muxer.Directions[d], n, name, took, w)
			}
		}
	}
}

func TestGuestsAnswersAreTimed(t *testing.T) {
	t.Parallel()
	v := newStalledVM(t, options{})
	for i, op := range []csm.Op{csm.OpResponse, csm.OpRST, csm.OpRST} {
		v.client("CONNECT 1234\n")
		q := v.driver.Expect(csm.OpRequest)
		v.pass(time.Second)
		v.driver.Send(v.driver.Header(1234, q.SrcPort, op), nil)
		v.eventually("an answer", func() bool {
			return v.stats.Handshakes[muxer.HandshakeOK].Load()+v.stats.Handshakes[muxer.HandshakeRefused].Load() == uint64(i+1)
		})
	}
	want := map[muxer.Answer]answers{muxer.AnswerResponse: {1, 1}, muxer.AnswerRST: {2, 2}}
	v.answered(muxer.HostInitiated, want)

	v.client("CONNECT 1234\n") // silence is no answer
	v.driver.Expect(csm.OpRequest)
	v.pass(3 * time.Second)
	v.count("silence", &v.stats.Handshakes[muxer.HandshakeSilent], 1)
	v.answered(muxer.HostInitiated, want)
}

func TestAnswersToTheGuestAreTimed(t *testing.T) {
	t.Parallel()
	v := newStalledVM(t, options{Config: muxer.Config{MaxConnections: 1}, driver: muxertest.Options{Buffers: -1}})
	p, d := v.listen(52), v.driver
	d.Send(d.Header(1000, 53, csm.OpRequest), nil) // nobody listens: the RST is due at once
	v.count("refused", &v.stats.Resets[muxer.ResetRefused], 1)
	v.answered(muxer.GuestInitiated, map[muxer.Answer]answers{muxer.AnswerRST: {1, 0}})

	d.Send(d.Header(1000, 52, csm.OpRequest), nil) // the RESPONSE waits for a buffer
	p.accept()
	v.pass(3 * time.Second)
	d.PostBuffers(2)
	d.ExpectFor(1000, 53, csm.OpRST)
	d.ExpectFor(1000, 52, csm.OpResponse)
	v.answered(muxer.GuestInitiated, map[muxer.Answer]answers{muxer.AnswerRST: {1, 0}, muxer.AnswerResponse: {1, 3}})

	d.Send(d.Header(1001, 52, csm.OpRequest), nil)
	v.count("the limit", &v.stats.Resets[muxer.ResetLimit], 1)
	d.Send(d.Header(1000, 52, csm.OpRequest), nil) // an RST ends the connection: it answers nothing
	v.idle()
	v.answered(muxer.GuestInitiated, map[muxer.Answer]answers{muxer.AnswerRST: {2, 0}, muxer.AnswerResponse: {1, 3}})
}

// A REQUEST that waits for room in a backlog and finds none has waited for its RST.
func TestRefusalForTheBacklogIsTimed(t *testing.T) {
	t.Parallel()
	v := newStalledVM(t, options{})
	defer unix.Close(listenFd(t, v.portPath(52), 0))
	d := v.driver
	d.Send(d.Header(1000, 52, csm.OpRequest), nil) // a backlog of 0 takes one
	d.ExpectFor(1000, 52, csm.OpResponse)
	d.Send(d.Header(1001, 52, csm.OpRequest), nil)
	v.eventually("it waits", func() bool { return v.stats.Dials.Load() == 1 })
	v.pass(2 * time.Second)
	d.ExpectFor(1001, 52, csm.OpRST)
	v.answered(muxer.GuestInitiated, map[muxer.Answer]answers{muxer.AnswerResponse: {1, 0}, muxer.AnswerRST: {1, 2}})
}
