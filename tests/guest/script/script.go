package script

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"syscall"
	"time"
)

// Conn is a stream socket, AF_UNIX or AF_VSOCK.
type Conn interface {
	io.ReadWriteCloser
	CloseRead() error
	CloseWrite() error
}

// Action is what a step does.
type Action string

const (
	Send       Action = "send"        // Bytes bytes of the pattern of Seed
	Say        Action = "say"         // sends Text
	Receive    Action = "receive"     // exactly Bytes bytes
	Drain      Action = "drain"       // to end of file
	Duplex     Action = "duplex"      // Send then CloseWrite, beside a Drain
	Echo       Action = "echo"        // sends back what comes, to end of file
	Flood      Action = "flood"       // sends until the peer refuses, which is not a failure
	CloseWrite Action = "close-write" // shutdown(SHUT_WR)
	CloseRead  Action = "close-read"  // shutdown(SHUT_RD)
	Wait       Action = "wait"        // until the gate Gate opens

	// On SOCK_SEQPACKET sockets.
	SendMessages    Action = "send-messages"    // one message of each of Sizes, of the pattern of Seed, with Flags
	ReceiveMessages Action = "receive-messages" // exactly Count messages
	DrainMessages   Action = "drain-messages"   // to end of file
	DuplexMessages  Action = "duplex-messages"  // SendMessages then CloseWrite, beside a DrainMessages
	EchoMessages    Action = "echo-messages"    // sends back what comes, to end of file

	// One system call each, on a socket of the kernel. What it returned is in Report.Calls;
	// an errno does not end the script.
	RecvMsg    Action = "recvmsg"    // of Bytes bytes with Flags, Hole and Timeout
	SendMsg    Action = "sendmsg"    // of Bytes bytes with Flags, Hole and Pieces
	SetOption  Action = "setsockopt" // Name of Level to Bytes
	Ioctl      Action = "ioctl"      // Name, again and again until it answers Bytes
	Completion Action = "completion" // of MSG_ZEROCOPY
)

// Step is one action on a connection.
type Step struct {
	Do    Action `json:"do"`
	Bytes int64  `json:"bytes,omitempty"`
	Seed  byte   `json:"seed,omitempty"`
	Text  string `json:"text,omitempty"`
	Gate  string `json:"gate,omitempty"`

	Sizes   []int         `json:"sizes,omitempty"`
	Count   int           `json:"count,omitempty"`
	Flags   int           `json:"flags,omitempty"`   // MSG_*
	Hole    int           `json:"hole,omitempty"`    // number of the buffer's page that cannot be touched, from 1; 0: none
	Pieces  int           `json:"pieces,omitempty"`  // into which the buffer is cut; 0: one
	Timeout time.Duration `json:"timeout,omitempty"` // SO_RCVTIMEO
	Level   int           `json:"level,omitempty"`
	Name    int           `json:"name,omitempty"`
}

// Report is what one end saw of a whole connection.
type Report struct {
	Sent        int64         `json:"sent"`
	SentSum     string        `json:"sent_sum"` // sha256, hex
	Received    int64         `json:"received"`
	ReceivedSum string        `json:"received_sum"`
	FloodErrno  syscall.Errno `json:"flood_errno,omitempty"` // what ended a Flood

	SentMessages     []int  `json:"sent_messages,omitempty"` // their sizes
	ReceivedMessages []int  `json:"received_messages,omitempty"`
	ReceivedEOR      int    `json:"received_eor,omitempty"` // how many of them with MSG_EOR
	Calls            []Call `json:"calls,omitempty"`

	Errno   syscall.Errno `json:"errno,omitempty"`   // of Failure, if it has one
	Failure string        `json:"failure,omitempty"` // the step that failed and why; later steps did not run
}

// Err returns the report's failure as an error.
func (r Report) Err() error {
	if r.Failure == "" {
		return nil
	}
	return errors.New(r.Failure)
}

// Fail notes err as what ended the connection.
func (r *Report) Fail(what string, err error) {
	r.Failure = fmt.Sprintf("%s: %v", what, err)
	errors.As(err, &r.Errno)
}

// Sum is the hash of n bytes of the pattern of seed, as a report shows it.
func Sum(seed byte, n int64) string {
	h := sha256.New()
	io.CopyN(h, pattern(seed), n)
	return hex.EncodeToString(h.Sum(nil))
}

// pattern is an endless stream of bytes in which no two places look alike.
func pattern(seed byte) io.Reader { return rand.NewChaCha8([32]byte{seed}) }

// chunk is how much one read or write moves: the largest vsock payload (64 KiB).
const chunk = 64 << 10

// Run performs the steps in turn and closes the connection. It calls wait for
// each Wait step.
func Run(c Conn, steps []Step, wait func(gate string)) Report {
	r := runner{conn: c, wait: wait, sent: sha256.New(), received: sha256.New()}
	for _, s := range steps {
		if err := r.step(s); err != nil {
			r.report.Fail(string(s.Do), err)
			break
		}
	}
	if err := c.Close(); err != nil && r.report.Failure == "" {
		r.report.Fail("close", err)
	}
	r.report.SentSum = hex.EncodeToString(r.sent.Sum(nil))
	r.report.ReceivedSum = hex.EncodeToString(r.received.Sum(nil))
	return r.report
}

type runner struct {
	conn           Conn
	wait           func(gate string)
	sent, received hash.Hash
	report         Report
	message        []byte // the last one received, and room for the largest
}

func (r *runner) step(s Step) error {
	switch s.Do {
	case Send:
		return r.send(s.Seed, s.Bytes)
	case Say:
		return r.write([]byte(s.Text))
	case Receive:
		return r.receive(s.Bytes)
	case Drain:
		return r.drain()
	case Duplex:
		return r.duplex(s.Seed, s.Bytes)
	case Echo:
		return r.echo()
	case Flood:
		return r.flood(s.Seed)
	case CloseWrite:
		return r.conn.CloseWrite()
	case CloseRead:
		return r.conn.CloseRead()
	case Wait:
		r.wait(s.Gate)
		return nil
	case SendMessages:
		return r.sendMessages(s)
	case ReceiveMessages:
		return r.receiveMessages(s.Count)
	case DrainMessages:
		return r.drainMessages()
	case DuplexMessages:
		return r.duplexMessages(s)
	case EchoMessages:
		return r.echoMessages()
	case RecvMsg:
		return r.recvMsg(s)
	case SendMsg:
		return r.sendMsg(s)
	case SetOption:
		return r.setOption(s)
	case Ioctl:
		return r.ioctl(s)
	case Completion:
		return r.completion()
	}
	return fmt.Errorf("unknown action %q", s.Do)
}

func (r *runner) send(seed byte, n int64) error {
	src, buf := pattern(seed), make([]byte, chunk)
	for n > 0 {
		b := buf[:min(n, chunk)]
		src.Read(b)
		if err := r.write(b); err != nil {
			return err
		}
		n -= int64(len(b))
	}
	return nil
}

func (r *runner) flood(seed byte) error {
	src, buf := pattern(seed), make([]byte, chunk)
	for {
		src.Read(buf)
		if err := r.write(buf); err != nil {
			errors.As(err, &r.report.FloodErrno)
			return nil
		}
	}
}

func (r *runner) write(b []byte) error {
	n, err := r.conn.Write(b)
	r.sent.Write(b[:n])
	r.report.Sent += int64(n)
	return err
}

func (r *runner) read(b []byte) (int, error) {
	n, err := r.conn.Read(b)
	r.received.Write(b[:n])
	r.report.Received += int64(n)
	return n, err
}

func (r *runner) receive(n int64) error {
	buf := make([]byte, chunk)
	for n > 0 {
		got, err := r.read(buf[:min(n, chunk)])
		if err == io.EOF {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		n -= int64(got)
	}
	return nil
}

func (r *runner) drain() error {
	buf := make([]byte, chunk)
	for {
		if _, err := r.read(buf); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (r *runner) duplex(seed byte, n int64) error {
	sent := make(chan error, 1)
	go func() {
		err := r.send(seed, n)
		sent <- errors.Join(err, r.conn.CloseWrite())
	}()
	received := r.drain()
	return errors.Join(<-sent, received)
}

func (r *runner) echo() error {
	buf := make([]byte, chunk)
	for {
		n, err := r.read(buf)
		if err == io.EOF {
			return r.conn.CloseWrite()
		}
		if err == nil {
			err = r.write(buf[:n])
		}
		if err != nil {
			return err
		}
	}
}
