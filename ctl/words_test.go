package ctl

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestSizes(t *testing.T) {
	const kib, mib, gib, tib = 1 << 10, 1 << 20, 1 << 30, 1 << 40
	for bytes, want := range map[float64]string{
		0: "0B", 0.4: "0B", 1: "1B", 999: "999B", 999.5: "1.0KiB", 1023: "1.0KiB", kib: "1.0KiB", 9.9 * kib: "9.9KiB",
		9.96 * kib: "10KiB", 256 * kib: "256KiB", 999 * kib: "999KiB", 1000 * kib: "1.0MiB", 1.5 * mib: "1.5MiB",
		999.6 * mib: "1.0GiB", 64 * gib: "64GiB", 3 * tib: "3.0TiB", 5000 * tib: "5000TiB",
	} {
		if got := size(bytes); got != want {
			t.Errorf("%v: %s, want %s", bytes, got, want)
		}
	}
	for bytes := float64(1); bytes < 999*tib; bytes *= 1.01 {
		if got := size(bytes); len(got) > sizeWidth {
			t.Fatalf("%v: %s is too wide", bytes, got)
		}
	}
}

func TestAges(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.0s", 40 * time.Millisecond: "0.0s", 9999 * time.Millisecond: "9.9s", 10 * time.Second: "10s",
		99*time.Second + 999*time.Millisecond: "99s", 100 * time.Second: "1m", 99 * time.Minute: "99m", 100 * time.Minute: "1h",
		99*time.Hour + 59*time.Minute: "99h", 100 * time.Hour: "4d", 365 * 24 * time.Hour: "365d",
	} {
		if got := age(d.Seconds()); got != want || len(got) > ageWidth {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

// hostile is text by which a terminal would do something, or show another text.
const hostile = "\x1b[2J\x1b]0;title\x07 \u009b31m\u009d \x7f\b\r\n\t\v\x00 \u202eleft\u2066 \u2028 \U000e0041 \xff\x9b"

func TestHostileTextIsPlain(t *testing.T) {
	const want = `\x1b[2J\x1b]0;title\a \u009b31m\u009d \x7f\b\r\n\t\v\x00 \u202eleft\u2066 \u2028 \U000e0041 \xff\x9b`
	if got := plain(hostile); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	const harmless = `Grüße, "世界" <&> \ 'x'` + "\ufffd"
	if got := plain(harmless); got != harmless {
		t.Errorf("%s, want it as it was", got)
	}
}

func TestHostileTextIsPlainJSON(t *testing.T) {
	valid := strings.ToValidUTF8(hostile, "")
	text, err := json.Marshal(valid + `"\ <é>`)
	if err != nil {
		t.Fatal(err)
	}
	got := plainJSON(text)
	if plain(got) != got {
		t.Errorf("not plain: %q", got)
	}
	var back string
	if err := json.Unmarshal([]byte(got), &back); err != nil || back != valid+`"\ <é>` {
		t.Errorf("it reads as %q, error %v", back, err)
	}
}

// No cell can be taken for two, or for two rows.
func TestTableKeepsCells(t *testing.T) {
	table := newTable("A", "B")
	table.row("x\ty\nz\v\f", "w")
	if got := strings.Join(table.lines(), "\n"); got != "A            B\n"+`x\ty\nz\v\f  w` {
		t.Errorf("got:\n%s", got)
	}
}
