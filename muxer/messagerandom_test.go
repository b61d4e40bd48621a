package muxer_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
)

// randomMessages yields the same messages for the same seed, most of them short.
type randomMessages struct {
	r      *rand.Rand
	source []byte
	n      uint32
}

func newRandomMessages(seed uint64, source []byte) *randomMessages {
	return &randomMessages{r: rand.New(rand.NewPCG(seed, 6)), source: source}
}

// next returns a message that begins with its number, if it has room for one.
func (m *randomMessages) next() []byte {
	size := m.r.IntN([]int{2, 100, 5000, 70000, csm.MaxMessage + 1}[m.r.IntN(5)])
	at := m.r.IntN(len(m.source) - size)
	p := append([]byte(nil), m.source[at:at+size]...)
	if m.n++; size >= 4 {
		binary.LittleEndian.PutUint32(p, m.n)
	}
	return p
}

// Connections of messages and of bytes side by side, everything at random, over
// pauses of the rings: every message comes, whole, in order, and then the end.
func TestMessagesAtRandom(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{seqpacket: true, Config: muxer.Config{MaxBuffered: 16 << 20}, driver: muxertest.Options{Buffers: 60}})
	p, bytes, g := v.listenMessages(52), v.listen(53), v.guest()
	source := pattern(csm.MaxMessage + 1<<16)
	const conns, messages = 6, 200
	done := make(chan error, 4*conns+2)

	for i := range uint64(conns) {
		c, s := v.dialMessages(g, p, 52)
		go func() { done <- sendAll(c.WriteMessage, newRandomMessages(2*i, source), messages) }()
		go func() { done <- sendAll(s.trySend, newRandomMessages(2*i+1, source), messages) }()
		go func() { done <- receiveAll(c.ReadMessage, newRandomMessages(2*i+1, source), messages) }()
		go func() { done <- receiveAll(s.recv, newRandomMessages(2*i, source), messages) }()
	}
	c, s := v.dial(g, bytes, 53)
	go func() { _, err := c.Write(source); done <- err }()
	go func() { s.want(source); done <- nil }()

	for left, r := 4*conns+2, rand.New(rand.NewPCG(1, 1)); left > 0; {
		select {
		case err := <-done:
			if left--; err != nil {
				t.Error(err)
			}
		default:
			v.pause()
			for range r.IntN(3) {
				v.do(func() {})
			}
			v.resume()
			for range r.IntN(200) {
				v.do(func() {})
			}
		}
	}
}

func sendAll(send func([]byte) error, m *randomMessages, n int) error {
	for i := range n {
		if err := send(m.next()); err != nil {
			return fmt.Errorf("send message %d: %w", i, err)
		}
	}
	return nil
}

func receiveAll(receive func() ([]byte, error), m *randomMessages, n int) error {
	for i := range n {
		want := m.next()
		switch got, err := receive(); {
		case err != nil:
			return fmt.Errorf("receive message %d: %w", i, err)
		case string(got) != string(want):
			return fmt.Errorf("message %d has %d bytes, want %d; or they differ", i, len(got), len(want))
		}
	}
	return nil
}
