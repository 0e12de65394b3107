package main

import (
	"bufio"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const sample = `{"Action":"run","Package":"github.com/matrix-org/complement/tests","Test":"TestA"}
{"Action":"run","Package":"github.com/matrix-org/complement/tests","Test":"TestA/x"}
{"Action":"run","Package":"github.com/matrix-org/complement/tests","Test":"TestA/x/deep"}
{"Action":"pass","Package":"github.com/matrix-org/complement/tests","Test":"TestA/x/deep"}
{"Action":"pass","Package":"github.com/matrix-org/complement/tests","Test":"TestA/x"}
{"Action":"run","Package":"github.com/matrix-org/complement/tests","Test":"TestA/y"}
{"Action":"fail","Package":"github.com/matrix-org/complement/tests","Test":"TestA/y"}
{"Action":"fail","Package":"github.com/matrix-org/complement/tests","Test":"TestA"}
{"Action":"run","Package":"github.com/matrix-org/complement/tests/csapi","Test":"TestB"}
{"Action":"output","Package":"github.com/matrix-org/complement/tests/csapi","Test":"TestB","Output":"panic\n"}
{"Action":"fail","Package":"github.com/matrix-org/complement/tests/csapi"}
`

func collected(t *testing.T) *results {
	t.Helper()
	r := newResults()
	if err := collect(bufio.NewReader(strings.NewReader(sample)), r, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestLeavesOnly(t *testing.T) {
	r := collected(t)
	if got := r.passes(); !reflect.DeepEqual(got, []string{"fed TestA/x/deep"}) {
		t.Errorf("passes: %v", got)
	}
	if got := r.with(fail); !reflect.DeepEqual(got, []string{"csapi TestB", "fed TestA/y"}) {
		t.Errorf("a test that never ended has failed: %v", got)
	}
}

func TestBaseline(t *testing.T) {
	r := collected(t)
	baseline := []string{"csapi TestB", "csapi TestNotRun", "fed TestA/gone", "fed TestA/x/deep"}
	if got := r.failing(baseline); !reflect.DeepEqual(got, []string{"csapi TestB", "fed TestA/gone"}) {
		t.Errorf("failing: %v", got)
	}
	file := filepath.Join(t.TempDir(), "baseline.txt")
	if err := r.update(file, baseline); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(text); got != "csapi TestNotRun\nfed TestA/x/deep\n" {
		t.Errorf("baseline: %q", got)
	}
}
