package muxer_test

import (
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
)

// described returns what the muxer tells of the connection from a port of the guest,
// once there is one that looks so.
func (v *vm) described(guestPort uint32, looks func(c *muxer.Connection) bool) (found muxer.Connection) {
	v.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		var all []muxer.Connection
		v.do(func() { all = v.m.Connections(nil) })
		for _, c := range all {
			if c.GuestPort == guestPort && looks(&c) {
				return c
			}
		}
		if time.Now().After(deadline) {
			v.t.Fatalf("no such connection from port %d: %+v", guestPort, all)
		}
	}
}

// waiting returns a connection that waits for that.
func (v *vm) waiting(guestPort uint32, want muxer.Wait) muxer.Connection {
	v.t.Helper()
	return v.described(guestPort, func(c *muxer.Connection) bool { return c.Wait == want })
}

func TestConnectionsAreDescribed(t *testing.T) {
	t.Parallel()
	v := newWaitingVM(t, options{seqpacket: true})
	d := v.driver
	s := v.open(v.listen(52), 1000, 52)
	v.passTime(time.Minute)
	client := v.client("CONNECT 60\n")
	asked := d.Expect(csm.OpRequest)
	d.Send(d.Header(60, asked.SrcPort, csm.OpResponse), nil)
	client.wantOK()

	v.sendPayload(1000, 52, []byte("payload"))
	s.want([]byte("payload"))
	s.send([]byte("to the guest"))
	d.ExpectFor(1000, 52, csm.OpRW)

	got := v.waiting(1000, muxer.WaitNothing)
	if got.Age < time.Minute || got.Age > time.Minute+patience {
		t.Errorf("age %v", got.Age)
	}
	got.Age = 0
	want := muxer.Connection{
		GuestPort: 1000, HostPort: 52, Direction: muxer.GuestInitiated, Phase: muxer.PhaseEstablished,
		TxBytes: 7, RxBytes: 12, Credit: 256<<10 - 12,
	}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	other := v.waiting(60, muxer.WaitNothing)
	if other.Direction != muxer.HostInitiated || other.HostPort != asked.SrcPort || other.Age > patience {
		t.Errorf("the host's: %+v", other)
	}

	v.messageClient("CONNECT 70\n")
	if c := v.waiting(70, muxer.WaitGuestAnswer); !c.Seqpacket || c.HostPort == 0 {
		t.Errorf("of messages: %+v", c)
	}

	data := v.fill(1000, 52)
	v.sendPayload(1000, 52, data[:128<<10])
	got = v.waiting(1000, muxer.WaitHostSocket)
	if got.TxBytes != uint64(7+len(data)+(128<<10)) || got.Buffered < 128<<10 || got.Buffered > 192<<10 {
		t.Errorf("full: %+v", got)
	}
	h := d.Header(1000, 52, csm.OpShutdown)
	h.Flags = csm.ShutdownSend
	d.Send(h, nil)
	v.described(1000, func(c *muxer.Connection) bool { return c.Phase == muxer.PhaseHalfClosed })
	d.Send(d.Header(1000, 52, csm.OpRST), nil)
	v.described(1000, func(c *muxer.Connection) bool {
		return c.Lingering && c.Wait == muxer.WaitHostSocket && c.Buffered == got.Buffered
	})
	s.want(data[:128<<10]) // makes room for less than there is
	v.described(1000, func(c *muxer.Connection) bool { return c.Lingering && c.Buffered < got.Buffered })
}

// What a connection waits for, one after another of all there is.
func TestConnectionsTellWhatTheyWaitFor(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{
		driver: muxertest.Options{Buffers: -1},
		Config: muxer.Config{WaitForGuest: time.Hour},
		clock:  func() time.Duration { return time.Hour }, // no deadline comes
	})
	d := v.driver
	v.connect()
	v.waiting(0, muxer.WaitConnectLine)

	d.PostBuffers(1)
	v.client("CONNECT 60\n")
	asked := d.Expect(csm.OpRequest)
	v.waiting(60, muxer.WaitGuestAnswer)
	v.client("CONNECT 60\n")
	v.eventually("two wait", func() bool { return v.stats.GuestWaits.Load() == 2 })
	d.Send(d.Header(60, asked.SrcPort, csm.OpRST), nil)
	v.waiting(60, muxer.WaitListener)

	v.fullBacklog(53)
	d.Send(d.Header(1001, 53, csm.OpRequest), nil)
	v.waiting(1001, muxer.WaitHostBacklog)

	p := v.listen(52)
	h := d.Header(1002, 52, csm.OpRequest)
	h.BufAlloc = 1000
	d.Send(h, nil)
	s := p.accept()
	v.waiting(1002, muxer.WaitRxBuffers) // the RESPONSE does
	d.PostBuffers(64)
	d.ExpectFor(1002, 52, csm.OpResponse)
	v.waiting(1002, muxer.WaitNothing)
	v.pause()
	s.send(pattern(1001))
	v.waiting(1002, muxer.WaitDriver)
	v.resume()
	if c := v.waiting(1002, muxer.WaitGuestCredit); c.RxBytes != 1000 || c.Credit != 0 {
		t.Errorf("without credit: %+v", c)
	}

	v.pause()
	s2 := v.client("CONNECT 61\n")
	v.waiting(61, muxer.WaitDriver)
	s2.Close()
	v.resume()
	news := d.Header(1002, 52, csm.OpCreditUpdate)
	news.FwdCnt = 1000
	d.Send(news, nil)
	v.waiting(1002, muxer.WaitNothing)
	s.Close()
	v.waiting(1002, muxer.WaitGuestAnswer)
}
