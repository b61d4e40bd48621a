package muxer_test

import (
	"fmt"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
)

// messageSizes are those at which something else begins: no bytes, one packet of
// Linux, one packet at all, the default limit of a host socket, the window.
var messageSizes = []int{0, 1, 44, 3731, 3732, 3733, 65535, 65536, 65537, 131072, 212960, 212961, 262143, csm.MaxMessage}

func TestMessagesOfEverySize(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]options{
		"like Linux":       {},
		"ring of 256":      {ringSize: 256},
		"without indirect": {noIndirect: true},
		"few rx buffers":   {driver: muxertest.Options{Buffers: 5}},
		"large rx buffers": {driver: muxertest.Options{Framing: muxertest.Framing{Rx: []int{44 + 64<<10}}}},
		"odd framing":      {driver: muxertest.Options{Buffers: 20, Framing: muxertest.Framing{Rx: []int{1, 7, 40, 1000, 3}, Tx: muxertest.CutAt(1, 43, 45, 5000), Gap: 3}}},
		"eighteen pieces":  {driver: muxertest.Options{Framing: muxertest.Framing{Tx: muxertest.Pieces(18), Direct: 3}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o.seqpacket = true
			v := newVM(t, o)
			p, g := v.listenMessages(52), v.guest()
			l := g.ListenSeqpacket(1234)
			guest, host := v.dialMessages(g, p, 52)
			checkMessages(t, guest, host)
			called, caller := v.callMessages(l, 1234)
			checkMessages(t, called, caller)

			guest.Close()
			host.wantEOF()
			caller.Close()
			wantGuestMessageEOF(t, called)
			v.idle()
		})
	}
}

// checkMessages passes messages of every size in both directions, one by one and
// then many on their way.
func checkMessages(t *testing.T, guest *muxertest.Conn, host *messageSock) {
	t.Helper()
	for _, size := range messageSizes {
		data := pattern(size)
		guestSends(t, guest, data)
		host.want(data)
		host.send(data)
		wantGuestMessage(t, guest, data)
	}
	done := make(chan error, 2)
	go func() { done <- eachMessage(guest.WriteMessage) }()
	go func() { done <- eachMessage(host.trySend) }()
	received := make(chan struct{})
	go func() {
		defer close(received)
		for _, size := range messageSizes {
			host.want(pattern(size))
		}
	}()
	for _, size := range messageSizes {
		wantGuestMessage(t, guest, pattern(size))
	}
	<-received
	for range 2 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

func eachMessage(send func([]byte) error) error {
	for _, size := range messageSizes {
		if err := send(pattern(size)); err != nil {
			return fmt.Errorf("message of %d bytes: %w", size, err)
		}
	}
	return nil
}
