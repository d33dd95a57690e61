use std::net::SocketAddr;

use super::*;
use crate::stall::Descriptors;

fn thread(tid: u32, activities: &[(Activity, u32)]) -> ThreadEvidence {
    let mut thread = ThreadEvidence { tid, timed_us: 1_000_000, ..ThreadEvidence::default() };
    for (activity, looks) in activities {
        thread.saw(activity.clone(), *looks);
    }
    thread
}

fn process(pid: u32, threads: Vec<ThreadEvidence>) -> ProcessEvidence {
    ProcessEvidence { pid, parent: Some(1), threads, descriptors: None }
}

fn single(activities: &[(Activity, u32)]) -> ProcessEvidence {
    process(7, vec![thread(7, activities)])
}

fn stall(processes: Vec<ProcessEvidence>) -> Stall {
    let pressed = Evidence { looks: 20, processes, cgroups: Vec::new() };
    Stall { pressed, ticks: 2, group: 1, ..Stall::default() }
}

fn names(stall: &Stall) -> Vec<&'static str> {
    decide(stall).iter().map(|report| report.impediment.name()).collect()
}

fn wait(call: &str, target: Target) -> Activity {
    Activity::Waiting(Wait { call: call.to_owned(), target })
}

fn database() -> Activity {
    let addr: SocketAddr = "10.0.0.7:5432".parse().unwrap();
    wait("recvfrom", Target::Remote(addr))
}

#[test]
fn one_thread_that_does_one_thing() {
    for (activity, expected) in [
        (Activity::Sleeping, "sleeping"),
        (Activity::Stopped, "stopped"),
        (Activity::Traced, "stopped"),
        (Activity::Frozen, "frozen"),
        (Activity::Locked, "blocked"),
        (Activity::Polling, "no_descriptors"),
        (Activity::Accepting, "burst"),
        (database(), "blocked"),
        (wait("read", Target::OwnClient), "blocked"),
        (wait("openat", Target::Kernel("nfs_wait_bit_killable".into())), "blocked"),
        (wait("page fault", Target::Kernel("mem_cgroup_handle_over_high".into())), "memory"),
    ] {
        let told = decide(&stall(vec![single(&[(activity.clone(), 20)])]));
        let [report] = &told[..] else { panic!("{activity:?}: {told:?}") };
        assert_eq!(report.impediment.name(), expected, "{activity:?}");
        assert_eq!((report.share, report.pids.as_slice()), (1.0, [7].as_slice()));
    }
}

#[test]
fn a_busy_handler_among_waits_is_not_the_cause() {
    let mixed = single(&[(database(), 18), (Activity::Running, 1), (Activity::Accepting, 1)]);
    let told = decide(&stall(vec![mixed]));
    assert_eq!(told[0].impediment, Impediment::Blocked);
    assert_eq!((told[0].share, told[0].confidence), (0.9, Confidence::High));
    let Some(Detail::Wait(wait)) = &told[0].detail else { panic!() };
    assert_eq!(wait.target, Target::Remote("10.0.0.7:5432".parse().unwrap()));
}

#[test]
fn processor_time_is_told_apart() {
    let timed = |ran_us, waited_us| {
        let mut thread = thread(7, &[(Activity::Running, 20)]);
        (thread.ran_us, thread.waited_us) = (ran_us, waited_us);
        stall(vec![process(7, vec![thread])])
    };
    assert_eq!(names(&timed(980_000, 10_000)), ["cpu_bound"]);
    assert_eq!(names(&timed(200_000, 700_000)), ["cpu_starved"]);
    let mut throttled = timed(30_000, 950_000);
    throttled.pressed.cgroups.push(CgroupEvidence {
        path: "/app".to_owned(),
        timed_us: 1_000_000,
        periods: 10,
        throttled: 9,
        throttled_us: 900_000,
        quota_millis: Some(30),
        ..CgroupEvidence::default()
    });
    let told = decide(&throttled);
    assert_eq!(names(&throttled), ["throttled"]);
    let Some(Detail::Quota { cores, needed, .. }) = told[0].detail else { panic!() };
    assert_eq!((cores, (needed * 100.0).round()), (0.03, 93.0));
}

#[test]
fn no_descriptor_left() {
    let mut process = single(&[(Activity::Running, 2), (Activity::Sleeping, 18)]);
    process.descriptors = Some(Descriptors { looks: 10, exhausted: 9, open: 40, limit: 40 });
    // It sleeps between two attempts: that is not what keeps it from accepting.
    let told = decide(&stall(vec![process]));
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].detail, Some(Detail::Files { open: 40, limit: 40 }));
}

#[test]
fn of_preforked_processes_the_workers_count() {
    let parent = process(10, vec![thread(10, &[(Activity::Supervising, 20)])]);
    let worker = |pid, activity: Activity| {
        let worker = process(pid, vec![thread(pid, &[(activity, 20)])]);
        ProcessEvidence { parent: Some(10), ..worker }
    };
    let busy = |activity: fn(u32) -> Activity| {
        let workers = (11..15).map(|pid| worker(pid, activity(pid)));
        stall([parent.clone()].into_iter().chain(workers).collect())
    };
    let told = decide(&busy(|_| database()));
    assert_eq!(told[0].impediment, Impediment::Blocked);
    assert_eq!(told[1].impediment, Impediment::WorkersBusy);
    assert_eq!(told[1].detail, Some(Detail::Workers { count: 4 }));
    assert_eq!(told[1].pids, [11, 12, 13, 14], "never the parent");
    assert_eq!(names(&busy(|_| Activity::Sleeping)), ["workers_busy", "sleeping"]);
    let each = |pid: u32| {
        let addr = SocketAddr::from(([10, 0, 0, 7], pid as u16));
        wait("recvfrom", Target::Remote(addr))
    };
    assert_eq!(names(&busy(each)), ["workers_busy"]);
    assert_eq!(names(&busy(|_| Activity::Accepting)), ["burst"]);
    // A parent that accepts, with children that have inherited the socket.
    let mut forking = busy(|_| database());
    forking.pressed.processes[0] = process(10, vec![thread(10, &[(Activity::Accepting, 20)])]);
    assert_eq!(names(&forking), ["burst"]);
}

#[test]
fn threads_that_leave_accepting_to_others_do_not_count() {
    let idle = |tid| thread(tid, &[(Activity::Locked, 20)]);
    let loops = process(7, vec![thread(7, &[(Activity::Sleeping, 20)]), idle(8), idle(9)]);
    assert_eq!(names(&stall(vec![loops])), ["sleeping"]);
    let acceptor = thread(8, &[(Activity::Accepting, 1), (database(), 19)]);
    let pool = process(7, vec![idle(7), acceptor, idle(9)]);
    assert_eq!(names(&stall(vec![pool])), ["blocked"]);
}

#[test]
fn one_socket_of_a_group_that_stands_still() {
    let mut group = stall(vec![single(&[(Activity::Stopped, 20)])]);
    (group.group, group.idle_members, group.uneven_ticks) = (4, 3, 2);
    assert_eq!(names(&group), ["stopped", "uneven"]);
    let mut accepting = stall(vec![single(&[(Activity::Accepting, 20)])]);
    (accepting.group, accepting.idle_members, accepting.uneven_ticks) = (4, 3, 2);
    assert_eq!(names(&accepting), ["burst"]);
}

#[test]
fn a_burst_that_was_over_before_the_first_look_is_not_sure() {
    let mut over = stall(Vec::new());
    over.calm = Evidence {
        looks: 20,
        processes: vec![single(&[(Activity::Accepting, 20)])],
        cgroups: Vec::new(),
    };
    let told = decide(&over);
    assert_eq!((told[0].impediment, told[0].confidence), (Impediment::Burst, Confidence::Medium));
}

#[test]
fn nothing_is_said_of_what_was_not_seen() {
    assert!(decide(&Stall::default()).is_empty());
    assert!(decide(&stall(vec![process(7, Vec::new())])).is_empty());
}

#[test]
fn what_holds_for_less_than_most_of_the_time_is_not_sure() {
    let many: Vec<(Activity, u32)> = vec![
        (Activity::Sleeping, 6),
        (wait("recvfrom", Target::Socket), 5),
        (Activity::Running, 5),
        (Activity::Locked, 4),
    ];
    let told = decide(&stall(vec![single(&many)]));
    assert_eq!(told[0].confidence, Confidence::Low);
    assert_ne!(told[0].impediment, Impediment::Burst);
}

#[test]
fn a_socket_whose_other_end_is_not_known_yet_counts_with_those_that_are() {
    let new = wait("recvfrom", Target::Socket);
    let told = decide(&stall(vec![single(&[(new, 16), (database(), 4)])]));
    let Some(Detail::Wait(wait)) = &told[0].detail else { panic!("{told:?}") };
    assert_eq!(wait.target, Target::Remote("10.0.0.7:5432".parse().unwrap()));
    assert_eq!(told[0].share, 1.0);
}
