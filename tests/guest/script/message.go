package script

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// MaxMessage is the largest message in bytes that crosses: the window of a connection.
const MaxMessage = 256 << 10

// sendMessages sends one message of each size.
func (r *runner) sendMessages(s Step) error {
	c, err := r.calls()
	if err != nil {
		return err
	}
	src := pattern(s.Seed)
	for _, n := range s.Sizes {
		p := make([]byte, n)
		src.Read(p)
		if err := r.sendMessage(c, p, s.Flags); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) sendMessage(c calls, p []byte, flags int) error {
	n, err := c.send([][]byte{p}, flags)
	if err == nil && n != len(p) {
		err = fmt.Errorf("%d sent", n)
	}
	if err != nil {
		return fmt.Errorf("message of %d bytes: %w", len(p), err)
	}
	r.sent.Write(p)
	r.report.Sent += int64(n)
	r.report.SentMessages = append(r.report.SentMessages, n)
	return nil
}

// receiveMessages receives count messages. An AF_VSOCK socket does not tell an empty
// one from the end of file: here it is a message, in a drain the end.
func (r *runner) receiveMessages(count int) error {
	c, err := r.calls()
	if err != nil {
		return err
	}
	exact := c.tellsEmpty()
	for range count {
		m, err := r.receiveMessage(c)
		if err != nil {
			return err
		}
		if exact && m.end() {
			return io.ErrUnexpectedEOF
		}
		r.note(m)
	}
	return nil
}

// drainMessages receives messages to the end of file.
func (r *runner) drainMessages() error {
	c, err := r.calls()
	if err != nil {
		return err
	}
	for {
		m, err := r.receiveMessage(c)
		if err != nil || m.end() {
			return err
		}
		r.note(m)
	}
}

// receiveMessage receives a whole message, into r.message.
func (r *runner) receiveMessage(c calls) (message, error) {
	if r.message == nil {
		r.message = make([]byte, MaxMessage)
	}
	m, err := c.receive(r.message, 0)
	if err == nil && m.flags&unix.MSG_TRUNC != 0 {
		err = fmt.Errorf("a message of more than %d bytes", len(r.message))
	}
	return m, err
}

func (r *runner) note(m message) {
	r.received.Write(r.message[:m.n])
	r.report.Received += int64(m.n)
	r.report.ReceivedMessages = append(r.report.ReceivedMessages, m.n)
	if m.flags&unix.MSG_EOR != 0 {
		r.report.ReceivedEOR++
	}
}

// duplexMessages is sendMessages and CloseWrite beside a drainMessages.
func (r *runner) duplexMessages(s Step) error {
	sent := make(chan error, 1)
	go func() {
		err := r.sendMessages(s)
		sent <- errors.Join(err, r.conn.CloseWrite())
	}()
	received := r.drainMessages()
	return errors.Join(<-sent, received)
}

func (r *runner) echoMessages() error {
	c, err := r.calls()
	if err != nil {
		return err
	}
	for {
		m, err := r.receiveMessage(c)
		if err != nil {
			return err
		}
		if m.end() {
			return r.conn.CloseWrite()
		}
		r.note(m)
		if err := r.sendMessage(c, r.message[:m.n], 0); err != nil {
			return err
		}
	}
}
