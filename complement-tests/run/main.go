// Command run runs Complement's own test packages against the resuni binary, as local processes,
// and compares what passes with baseline.txt.
//
//	go run ./run -binary ../target/debug/resuni                 every package
//	go run ./run -binary … -pkg csapi -run TestRoomState        one test
//	go run ./run -binary … -update                              write baseline.txt anew
//
// A name in the baseline that fails is tried once more by itself: Complement waits in seconds, and
// a busy machine is not a fault of the server. It fails the run if it fails again.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"time"
)

// notAvailable is the exit code when Complement itself can't be had: nothing was tested.
const notAvailable = 77

type options struct {
	binary, pkg, run, work, source string
	update, keep                   bool
	packages                       int
	timeout                        time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.binary, "binary", "", "the resuni binary (needed)")
	flag.StringVar(&o.pkg, "pkg", "", "one package: fed, csapi or msc…; default: all")
	flag.StringVar(&o.run, "run", "", "only tests that match this pattern")
	flag.StringVar(&o.work, "work", "", "working folder (needed); may be kept between runs")
	flag.StringVar(&o.source, "source", os.Getenv("COMPLEMENT_SRC"), "a checkout of Complement, instead of the Go module")
	flag.BoolVar(&o.update, "update", false, "write what passes to baseline.txt")
	flag.BoolVar(&o.keep, "keep", false, "keep the servers' folders and logs")
	flag.IntVar(&o.packages, "p", runtime.NumCPU(), "packages at once")
	flag.DurationVar(&o.timeout, "timeout", 15*time.Minute, "the most that one package may take")
	flag.Parse()
	code, err := run(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "complement:", err)
	}
	os.Exit(code)
}

func run(o options) (int, error) {
	if o.binary == "" || o.work == "" {
		return 2, errors.New("-binary and -work are needed")
	}
	here, err := os.Getwd()
	if err != nil {
		return 1, err
	}
	for _, path := range []*string{&o.binary, &o.work} {
		if *path, err = filepath.Abs(*path); err != nil {
			return 1, err
		}
	}
	if _, err := os.Stat(o.binary); err != nil {
		return 2, fmt.Errorf("there is no binary to test: %w", err)
	}
	source, err := prepare(here, o)
	if err != nil {
		return notAvailable, err
	}
	began := time.Now()
	results, err := test(o, source, here, patterns(o), o.run)
	if err != nil {
		return 1, err
	}
	baselineFile := filepath.Join(here, "baseline.txt")
	baseline, err := readBaseline(baselineFile)
	if err != nil {
		return 1, err
	}
	failing := results.failing(baseline)
	if !o.update && len(failing) > 0 && len(failing) <= mostRetries {
		failing = again(o, source, here, results, failing)
	}
	passes := results.passes()
	fmt.Printf("Complement: %d leaves passed, %d failed, %d skipped in %v; %d are in the baseline\n",
		len(passes), len(results.with(fail)), len(results.with(skip)), time.Since(began).Round(time.Second), len(baseline))
	if o.update {
		return 0, results.update(baselineFile, baseline)
	}
	if fresh := results.fresh(baseline); len(fresh) > 0 {
		fmt.Printf("%d leaves pass that are not in the baseline; `make complement-baseline` adds them\n", len(fresh))
	}
	if len(failing) > 0 {
		sort.Strings(failing)
		for _, name := range failing {
			fmt.Println("FAILED, and in the baseline:", name)
		}
		return 1, fmt.Errorf("%d leaves of the baseline fail", len(failing))
	}
	return 0, nil
}

// mostRetries: when more than this fails, it is not the machine.
const mostRetries = 60

// again runs the tests of failing leaves a second time, each package's together, and returns the
// leaves that still fail.
func again(o options, source, here string, results *results, failing []string) []string {
	byPackage := map[string]map[string]bool{}
	for _, name := range failing {
		pkg, top := split(name)
		if byPackage[pkg] == nil {
			byPackage[pkg] = map[string]bool{}
		}
		byPackage[pkg][top] = true
	}
	for pkg, tops := range byPackage {
		fmt.Printf("once more, as they are in the baseline: %s %v\n", pkg, keys(tops))
		second, err := test(o, source, here, []string{path(pkg)}, exactly(keys(tops)))
		if err != nil {
			fmt.Fprintln(os.Stderr, "complement:", err)
			continue
		}
		results.merge(second)
	}
	var still []string
	for _, name := range failing {
		if results.of[name] != pass {
			still = append(still, name)
		}
	}
	return still
}
