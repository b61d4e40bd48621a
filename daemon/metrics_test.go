package daemon

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
)

// exposition returns what a scrape of g shows.
func exposition(t *testing.T, g prometheus.Gatherer) string {
	t.Helper()
	answer := httptest.NewRecorder()
	promhttp.HandlerFor(g, promhttp.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if answer.Code != http.StatusOK {
		t.Fatalf("status %d: %s", answer.Code, answer.Body)
	}
	return answer.Body.String()
}

func noneLost() uint64 { return 0 }

func TestMetricsPassPromtoolsLint(t *testing.T) {
	text := exposition(t, newMetrics(listOf(&vm{name: "cid3"}), new(programStats), noneLost, "devel"))
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestMetricsHelpIsASentence(t *testing.T) {
	for _, f := range families {
		if !strings.HasSuffix(f.help, ".") {
			t.Errorf("%s: %s", f.name, f.help)
		}
	}
}

func TestMetricsOfEveryVMAreThereFromTheStart(t *testing.T) {
	text := exposition(t, newMetrics(listOf(&vm{name: "cid3"}, &vm{name: "cid4"}), new(programStats), noneLost, "devel"))
	for _, f := range families {
		series := func(vm string) int {
			n := 0
			for line := range strings.Lines(text) {
				name, _, _ := strings.Cut(line, "{")
				if strings.TrimSuffix(name, "_bucket") == namespace+"_"+f.name && strings.Contains(line, fmt.Sprintf("vm=%q", vm)) {
					n++
				}
			}
			return n
		}
		if cid3, cid4 := series("cid3"), series("cid4"); cid3 == 0 || cid3 != cid4 {
			t.Errorf("%s: %d series of cid3, %d of cid4", f.name, cid3, cid4)
		}
	}
	for _, name := range []string{
		"vhost_user_vsock_build_info{", "vhost_user_vsock_log_lines_lost_total 0", "go_goroutines ", "process_open_fds ",
	} {
		if !strings.Contains(text, "\n"+name) {
			t.Errorf("%s is missing", name)
		}
	}
}

func TestMetricsShowTheCounters(t *testing.T) {
	v := &vm{name: "cid7"}
	v.stats.maxConnections.Set(4096)
	v.stats.maxBuffered.Set(1 << 28)
	m, u := &v.stats.muxer, &v.stats.vhostuser
	m.Connections[muxer.PhaseHalfClosed][muxer.HostInitiated].Set(1)
	m.TxPackets[5].Add(2)
	m.RxPackets[3].Add(3)
	m.TxBytes.Add(4)
	m.RxBytes.Add(5)
	m.Resets[muxer.ResetBacklog].Add(6)
	m.Handshakes[muxer.HandshakeSilent].Add(7)
	m.CreditStalls.Add(8)
	m.BufferStalls.Add(9)
	m.MemoryStalls.Add(17)
	u.MemoryStalls.Add(18)
	m.CreditStalled.Start(0)
	m.CreditStalled.Stop(1500 * time.Millisecond)
	m.HostStalled.Start(0)
	m.HostStalled.Stop(2500 * time.Millisecond)
	m.RxRingStalled.Start(0)
	m.RxRingStalled.Stop(3500 * time.Millisecond)
	m.BufferStalled.Start(0)
	m.BufferStalled.Stop(4500 * time.Millisecond)
	m.Answered[muxer.GuestInitiated][muxer.AnswerRST].Observe(5 * time.Microsecond)
	v.stats.turns.Observe(time.Minute)
	v.stats.polling.Add(2.5e9)
	m.GuestWaits.Set(19)
	m.GuestRetries.Add(20)
	m.RxQueueDepth.Set(10)
	m.KillResyncs.Add(11)
	u.Queues[0].Notified.Add(12)
	u.Queues[1].Suppressed.Add(13)
	u.Queues[1].Errors[vhostuser.FaultLoop].Add(14)
	u.SessionsEnded[vhostuser.EndProtocol].Add(15)

	text := exposition(t, newMetrics(listOf(v), new(programStats), func() uint64 { return 16 }, "devel"))
	for _, line := range []string{
		`connections{direction="host_initiated",state="half_closed",vm="cid7"} 1`,
		`connections{direction="guest_initiated",state="half_closed",vm="cid7"} 0`,
		`connections_limit{vm="cid7"} 4096`,
		`packets_total{direction="tx",op="rw",vm="cid7"} 2`,
		`packets_total{direction="rx",op="rst",vm="cid7"} 3`,
		`payload_bytes_total{direction="tx",vm="cid7"} 4`,
		`payload_bytes_total{direction="rx",vm="cid7"} 5`,
		`resets_total{reason="backlog",vm="cid7"} 6`,
		`handshakes_total{result="silent",vm="cid7"} 7`,
		`credit_stalls_total{vm="cid7"} 8`,
		`ring_stalls_total{queue="tx",reason="buffered_limit",vm="cid7"} 9`,
		`memory_stalls_total{peer="host_program",vm="cid7"} 17`,
		`memory_stalls_total{peer="frontend",vm="cid7"} 18`,
		`connection_stall_seconds_total{reason="credit",vm="cid7"} 1.5`,
		`connection_stall_seconds_total{reason="host_socket",vm="cid7"} 2.5`,
		`ring_stall_seconds_total{queue="rx",reason="no_buffers",vm="cid7"} 3.5`,
		`ring_stall_seconds_total{queue="tx",reason="replies",vm="cid7"} 0`,
		`ring_stall_seconds_total{queue="tx",reason="buffered_limit",vm="cid7"} 4.5`,
		`request_duration_seconds_bucket{answer="rst",direction="guest_initiated",vm="cid7",le="4e-06"} 0`,
		`request_duration_seconds_bucket{answer="rst",direction="guest_initiated",vm="cid7",le="1.6e-05"} 1`,
		`request_duration_seconds_sum{answer="rst",direction="guest_initiated",vm="cid7"} 5e-06`,
		`request_duration_seconds_count{answer="response",direction="host_initiated",vm="cid7"} 0`,
		`loop_turn_seconds_bucket{vm="cid7",le="16.777216"} 0`,
		`loop_turn_seconds_bucket{vm="cid7",le="+Inf"} 1`,
		`loop_turn_seconds_sum{vm="cid7"} 60`,
		`loop_poll_seconds_total{vm="cid7"} 2.5`,
		`guest_waits{vm="cid7"} 19`,
		`guest_retries_total{vm="cid7"} 20`,
		`rxq_depth{vm="cid7"} 10`,
		`killq_resyncs_total{vm="cid7"} 11`,
		`notifications_total{queue="rx",result="sent",vm="cid7"} 12`,
		`notifications_total{queue="tx",result="suppressed",vm="cid7"} 13`,
		`ring_errors_total{queue="tx",reason="loop",vm="cid7"} 14`,
		`sessions_ended_total{reason="protocol",vm="cid7"} 15`,
		`log_lines_lost_total 16`,
	} {
		if !strings.Contains(text, "\nvhost_user_vsock_"+line+"\n") {
			t.Errorf("missing: %s", line)
		}
	}
}
