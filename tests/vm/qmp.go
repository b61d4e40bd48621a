package vm

import (
	"encoding/json"
	"fmt"
	"net"
	"time"
)

// qmp is a connection to a QEMU's monitor.
type qmp struct {
	conn net.Conn
	dec  *json.Decoder
}

// answerLimit bounds the answers of a monitor and of a guest; QEMU starts within it on a
// busy machine.
const answerLimit = 20 * time.Second

func dialQMP(t TB, path string) *qmp {
	t.Helper()
	q := &qmp{}
	Eventually(t, answerLimit, "QEMU's monitor accepts", func() bool {
		var err error
		q.conn, err = net.Dial("unix", path)
		return err == nil
	})
	t.Cleanup(func() { q.conn.Close() })
	q.dec = json.NewDecoder(q.conn)
	var greeting struct{ QMP any }
	q.conn.SetDeadline(time.Now().Add(answerLimit))
	if err := q.dec.Decode(&greeting); err != nil {
		t.Fatalf("greeting of QEMU's monitor: %v", err)
	}
	q.execute(t, "qmp_capabilities")
	return q
}

func (q *qmp) pause(t TB)  { t.Helper(); q.execute(t, "stop") }
func (q *qmp) resume(t TB) { t.Helper(); q.execute(t, "cont") }
func (q *qmp) reset(t TB)  { t.Helper(); q.execute(t, "system_reset") }

// execute runs a command without arguments and waits for its answer.
func (q *qmp) execute(t TB, command string) {
	t.Helper()
	q.conn.SetDeadline(time.Now().Add(answerLimit))
	if _, err := fmt.Fprintf(q.conn, "{\"execute\":%q}\n", command); err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	for {
		var answer struct { // an event has neither
			Return any
			Error  any
		}
		if err := q.dec.Decode(&answer); err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		if answer.Error != nil {
			t.Fatalf("%s: %v", command, answer.Error)
		}
		if answer.Return != nil {
			return
		}
	}
}
