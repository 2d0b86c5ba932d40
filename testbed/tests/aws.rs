//! The AWS testbed over plain HTTP, rule by rule.

#![expect(clippy::unwrap_used, reason = "helpers end a test as its own body would")]

use std::error::Error as _;
use std::future::Future;
use std::process::Stdio;
use std::time::{Duration, Instant};

use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use wakala_testbed::aws::{
    AwsEndpoint, Error, Fault, HealthIssue, NodegroupScaled, NodegroupSizes, NodegroupStatus, Operation,
    UpdateOutcome,
};

const GROUP: &str = "/clusters/prod/node-groups/api";
const UPDATE: &str = "/clusters/prod/node-groups/api/update-config";
/// Long enough to look at an update in progress, on a machine that does other things too.
const SLOW: Duration = Duration::from_secs(600);
const LIMIT: Duration = Duration::from_secs(30);

struct Eks {
    http: Client,
    url: String,
}

struct Answer {
    status: u16,
    code: String,
    body: Value,
}

impl Answer {
    fn error(&self) -> (u16, &str) {
        assert!(self.body["message"].is_string(), "an error without a message: {}", self.body);
        (self.status, &self.code)
    }

    fn update(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body["update"].clone()
    }
}

impl Eks {
    fn of(aws: &AwsEndpoint) -> Self {
        Self { http: Client::builder().no_proxy().build().unwrap(), url: aws.endpoint_url().to_owned() }
    }

    async fn try_call(&self, method: Method, path: &str, body: Option<Value>) -> reqwest::Result<Answer> {
        let scope = "testing/20260101/us-east-1/eks/aws4_request";
        let mut request = self.http.request(method, format!("{}{path}", self.url)).header(
            "authorization",
            format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=00"),
        );
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let code = response.headers().get("x-amzn-errortype").map(|code| code.to_str().unwrap().to_owned());
        let body = response.json().await?;
        Ok(Answer { status, code: code.unwrap_or_default(), body })
    }

    async fn get(&self, path: &str) -> Answer {
        self.try_call(Method::GET, path, None).await.unwrap()
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.try_call(Method::POST, path, Some(body)).await.unwrap()
    }

    async fn scale(&self, desired: i64) -> Answer {
        self.post(UPDATE, json!({"scalingConfig": {"desiredSize": desired}})).await
    }

    async fn describe_update(&self, id: &Value) -> Value {
        let id = id.as_str().unwrap();
        self.get(&format!("/clusters/prod/updates/{id}?nodegroupName=api")).await.update()
    }

    async fn finished(&self, id: &Value) -> Value {
        until("the update is finished", || async {
            let update = self.describe_update(id).await;
            (update["status"] != "InProgress").then_some(update)
        })
        .await
    }

    async fn nodegroup(&self) -> Value {
        self.get(GROUP).await.body["nodegroup"].clone()
    }
}

/// Asks again every few milliseconds until there is an answer.
async fn until<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A group `api` of 2 to 10 nodes, 3 desired, in the cluster `prod`.
async fn prod(update_duration: Duration) -> (AwsEndpoint, Eks) {
    let aws = AwsEndpoint::builder().update_duration(update_duration).start().await.unwrap();
    aws.create_cluster("prod").await.unwrap();
    aws.create_nodegroup("prod", "api", 2, 3, 10).await.unwrap();
    let eks = Eks::of(&aws);
    (aws, eks)
}

async fn sizes(aws: &AwsEndpoint) -> NodegroupSizes {
    aws.nodegroup_sizes("prod", "api").await.unwrap()
}

#[tokio::test]
async fn update_goes_from_in_progress_to_successful() {
    let (aws, eks) = prod(Duration::from_millis(300)).await;

    let update = eks.post(UPDATE, json!({"scalingConfig": {"minSize": 4, "desiredSize": 8}})).await.update();
    assert_eq!(update["status"], "InProgress");
    assert_eq!(update["type"], "ConfigUpdate");
    assert_eq!(update["errors"], json!([]));
    assert!(update["createdAt"].as_f64().unwrap() > 1.7e9);
    assert_eq!(
        update["params"],
        json!([{"type": "MinSize", "value": "4"}, {"type": "DesiredSize", "value": "8"}])
    );
    let group = eks.nodegroup().await;
    assert_eq!(group["status"], "UPDATING");
    assert_eq!(group["scalingConfig"], json!({"minSize": 2, "desiredSize": 3, "maxSize": 10}));

    let finished = eks.finished(&update["id"]).await;
    assert_eq!(finished["status"], "Successful");
    assert_eq!(finished["id"], update["id"]);
    let group = eks.nodegroup().await;
    assert_eq!(group["status"], "ACTIVE");
    assert_eq!(group["scalingConfig"], json!({"minSize": 4, "desiredSize": 8, "maxSize": 10}));
    assert_eq!(group["health"]["issues"], json!([]));
    // What the front did not make up is moto's.
    assert_eq!(group["nodegroupName"], "api");
    assert_eq!(sizes(&aws).await, NodegroupSizes { min: 4, desired: 8, max: 10 });
}

#[tokio::test]
async fn update_takes_the_duration_it_is_given() {
    let (aws, eks) = prod(SLOW).await;
    let stuck = eks.scale(4).await.update();
    assert_eq!(eks.describe_update(&stuck["id"]).await["status"], "InProgress");

    aws.create_nodegroup("prod", "batch", 0, 0, 1).await.unwrap();
    aws.set_update_duration(Duration::from_millis(400));
    let begun = Instant::now();
    let body = json!({"scalingConfig": {"desiredSize": 1}});
    eks.post("/clusters/prod/node-groups/batch/update-config", body).await.update();
    until("the other group has its node", || async {
        (aws.nodegroup_sizes("prod", "batch").await.unwrap().desired == 1).then_some(())
    })
    .await;
    assert!(begun.elapsed() >= Duration::from_millis(400), "after {:?}", begun.elapsed());
    assert_eq!(eks.describe_update(&stuck["id"]).await["status"], "InProgress");
}

#[tokio::test]
async fn sizes_are_checked_after_the_merge() {
    let (aws, eks) = prod(Duration::ZERO).await;
    let refused = [
        json!({"desiredSize": 11}),
        json!({"desiredSize": 1}),
        json!({"minSize": 4}),
        json!({"maxSize": 2}),
        json!({"minSize": -1}),
        json!({"desiredSize": -1}),
        json!({"maxSize": 0}),
        json!({"minSize": 0, "desiredSize": 0, "maxSize": 0}),
        json!({"minSize": 6, "desiredSize": 5, "maxSize": 8}),
    ];
    for scaling in refused {
        let answer = eks.post(UPDATE, json!({"scalingConfig": scaling})).await;
        assert_eq!(answer.error(), (400, "InvalidParameterException"), "{scaling}");
        assert_eq!(answer.body["clusterName"], "prod");
        assert_eq!(answer.body["nodegroupName"], "api");
    }
    assert_eq!(eks.post(UPDATE, json!({})).await.error(), (400, "InvalidParameterException"));
    let mistyped = eks.post(UPDATE, json!({"scalingConfig": {"desiredSize": "many"}})).await;
    assert_eq!(mistyped.error(), (400, "SerializationException"));
    assert_eq!(sizes(&aws).await, NodegroupSizes { min: 2, desired: 3, max: 10 });
    assert_eq!(eks.nodegroup().await["status"], "ACTIVE");

    // At the bounds, and above the old maximum together with a new one.
    for scaling in
        [json!({"desiredSize": 10}), json!({"desiredSize": 2}), json!({"desiredSize": 30, "maxSize": 30})]
    {
        let update = eks.post(UPDATE, json!({"scalingConfig": scaling})).await.update();
        assert_eq!(eks.finished(&update["id"]).await["status"], "Successful");
    }
    assert_eq!(sizes(&aws).await, NodegroupSizes { min: 2, desired: 30, max: 30 });
}

#[tokio::test]
async fn unknown_names_are_not_found() {
    let (_aws, eks) = prod(SLOW).await;
    let body = json!({"scalingConfig": {"desiredSize": 4}});
    let not_found = (404, "ResourceNotFoundException");
    let cluster = eks.post("/clusters/test/node-groups/api/update-config", body.clone()).await;
    assert_eq!(cluster.error(), not_found);
    assert_eq!(cluster.body["clusterName"], "test");
    let group = eks.post("/clusters/prod/node-groups/web/update-config", body).await;
    assert_eq!(group.error(), not_found);
    assert_eq!(group.body["nodegroupName"], "web");
    assert_eq!(eks.get("/clusters/prod/node-groups/web").await.error(), not_found);
    assert_eq!(eks.get("/clusters/test/updates").await.error(), not_found);
    assert_eq!(eks.get("/clusters/prod/updates?nodegroupName=web").await.error(), not_found);

    let id = eks.scale(4).await.update()["id"].as_str().unwrap().to_owned();
    assert_eq!(eks.get("/clusters/prod/updates/none?nodegroupName=api").await.error(), not_found);
    assert_eq!(eks.get(&format!("/clusters/prod/updates/{id}?nodegroupName=web")).await.error(), not_found);
    assert_eq!(eks.get(&format!("/clusters/test/updates/{id}?nodegroupName=api")).await.error(), not_found);
    // A node-group update is found only with the group's name.
    assert_eq!(eks.get(&format!("/clusters/prod/updates/{id}")).await.error(), not_found);
    assert_eq!(eks.get(&format!("/clusters/prod/updates/{id}?nodegroupName=api")).await.status, 200);
}

#[tokio::test]
async fn one_update_at_a_time() {
    let (aws, eks) = prod(Duration::from_millis(300)).await;
    let first = eks.scale(4).await.update();
    let second = eks.scale(5).await;
    assert_eq!(second.error(), (409, "ResourceInUseException"));
    assert_eq!(second.body["nodegroupName"], "api");
    let deletion = eks.try_call(Method::DELETE, GROUP, None).await.unwrap();
    assert_eq!(deletion.error(), (409, "ResourceInUseException"));

    eks.finished(&first["id"]).await;
    let third = eks.scale(5).await.update();
    assert_ne!(third["id"], first["id"]);
    eks.finished(&third["id"]).await;

    aws.set_nodegroup_status("prod", "api", NodegroupStatus::Creating).await.unwrap();
    assert_eq!(eks.nodegroup().await["status"], "CREATING");
    assert_eq!(eks.scale(6).await.error(), (409, "ResourceInUseException"));
    aws.set_nodegroup_status("prod", "api", NodegroupStatus::Active).await.unwrap();
    assert_eq!(eks.scale(6).await.status, 200);
}

#[tokio::test]
async fn simultaneous_updates_leave_one_winner() {
    let (_aws, eks) = prod(SLOW).await;
    let (a, b, c) = tokio::join!(eks.scale(4), eks.scale(5), eks.scale(6));
    let mut statuses = [a.status, b.status, c.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409, 409]);
}

#[tokio::test]
async fn request_token_makes_a_repetition_harmless() {
    let (aws, eks) = prod(Duration::from_millis(300)).await;
    let body = |desired: u32| json!({"clientRequestToken": "run-7/nodes", "scalingConfig": {"desiredSize": desired}});
    let first = eks.post(UPDATE, body(4)).await.update();
    let again = eks.post(UPDATE, body(4)).await.update();
    assert_eq!(again["id"], first["id"]);
    assert_eq!(eks.post(UPDATE, body(5)).await.error(), (400, "InvalidParameterException"));

    eks.finished(&first["id"]).await;
    let late = eks.post(UPDATE, body(4)).await.update();
    assert_eq!((&late["id"], &late["status"]), (&first["id"], &json!("Successful")));
    assert_eq!(eks.nodegroup().await["status"], "ACTIVE");
    assert_eq!(sizes(&aws).await.desired, 4);

    // The same arguments for another group are other arguments, and a refused call uses no token up.
    aws.create_nodegroup("prod", "batch", 0, 1, 5).await.unwrap();
    let other = eks.post("/clusters/prod/node-groups/batch/update-config", body(4)).await;
    assert_eq!(other.error(), (400, "InvalidParameterException"));
    let token = |desired: u32| json!({"clientRequestToken": "b", "scalingConfig": {"desiredSize": desired}});
    assert_eq!(eks.post(UPDATE, token(99)).await.status, 400);
    assert_eq!(eks.post(UPDATE, token(5)).await.status, 200);
}

#[tokio::test]
async fn failed_update_keeps_the_previous_configuration() {
    let (aws, eks) = prod(Duration::from_millis(50)).await;
    let mut events = aws.scaling_events();
    aws.script_update(UpdateOutcome::Failed {
        code: "AccessDenied".to_owned(),
        message: "The node role was deleted".to_owned(),
    });
    let update = eks.scale(9).await.update();
    let finished = eks.finished(&update["id"]).await;
    assert_eq!(finished["status"], "Failed");
    assert_eq!(finished["errors"][0]["errorCode"], "AccessDenied");
    assert_eq!(finished["errors"][0]["errorMessage"], "The node role was deleted");
    assert_eq!(finished["errors"][0]["resourceIds"], json!(["api"]));
    let group = eks.nodegroup().await;
    assert_eq!(group["status"], "ACTIVE");
    assert_eq!(group["scalingConfig"]["desiredSize"], 3);
    assert!(events.try_recv().is_err());

    // Only the next one was scripted.
    let update = eks.scale(9).await.update();
    assert_eq!(eks.finished(&update["id"]).await["status"], "Successful");
}

#[tokio::test]
async fn degraded_group_recovers_with_a_scale_out() {
    let (aws, eks) = prod(Duration::from_millis(50)).await;
    let mut events = aws.scaling_events();
    aws.script_update(UpdateOutcome::Degraded(vec![HealthIssue::launch_failures()]));
    let update = eks.scale(8).await.update();
    assert_eq!(eks.finished(&update["id"]).await["status"], "Successful");
    let group = eks.nodegroup().await;
    assert_eq!(group["status"], "DEGRADED");
    assert_eq!(group["health"]["issues"][0]["code"], "AsgInstanceLaunchFailures");
    assert_eq!(group["scalingConfig"]["desiredSize"], 8);
    assert!(events.try_recv().is_err(), "no node can come");

    // A degraded group takes updates, but one that lowers the size does not make it well.
    let update = eks.scale(3).await.update();
    eks.finished(&update["id"]).await;
    assert_eq!(eks.nodegroup().await["status"], "DEGRADED");
    let update = eks.scale(8).await.update();
    eks.finished(&update["id"]).await;
    let group = eks.nodegroup().await;
    assert_eq!((&group["status"], &group["health"]["issues"]), (&json!("ACTIVE"), &json!([])));

    aws.set_nodegroup_health("prod", "api", vec![HealthIssue::new("InsufficientFreeAddresses", "none left")])
        .await
        .unwrap();
    assert_eq!(eks.nodegroup().await["status"], "DEGRADED");
    aws.set_nodegroup_health("prod", "api", Vec::new()).await.unwrap();
    assert_eq!(eks.nodegroup().await["status"], "ACTIVE");
}

#[tokio::test]
async fn updates_are_listed_in_pages() {
    let (_aws, eks) = prod(Duration::ZERO).await;
    let mut ids = Vec::new();
    for desired in [4, 5, 6] {
        let update = eks.scale(desired).await.update();
        eks.finished(&update["id"]).await;
        ids.insert(0, update["id"].clone());
    }
    let all = eks.get("/clusters/prod/updates?nodegroupName=api").await.body;
    assert_eq!(all, json!({"updateIds": ids, "nextToken": null}));
    let first = eks.get("/clusters/prod/updates?nodegroupName=api&maxResults=2").await.body;
    assert_eq!(first["updateIds"], json!(ids[..2]));
    let next = first["nextToken"].as_str().unwrap();
    let rest = eks
        .get(&format!("/clusters/prod/updates?nodegroupName=api&maxResults=2&nextToken={next}"))
        .await
        .body;
    assert_eq!(rest, json!({"updateIds": ids[2..], "nextToken": null}));
    for page in ["0", "101", "many"] {
        let answer = eks.get(&format!("/clusters/prod/updates?nodegroupName=api&maxResults={page}")).await;
        assert_eq!(answer.error(), (400, "InvalidParameterException"), "{page}");
    }
    assert_eq!(eks.get("/clusters/prod/updates").await.body["updateIds"], json!([]));
}

#[tokio::test]
async fn labels_and_taints_change_with_the_update() {
    let (aws, eks) = prod(Duration::from_millis(50)).await;
    let mut events = aws.scaling_events();
    let taint = json!({"key": "spike", "value": "yes", "effect": "NO_SCHEDULE"});
    let update = eks
        .post(
            UPDATE,
            json!({
                "labels": {"addOrUpdateLabels": {"tier": "burst"}},
                "taints": {"addOrUpdateTaints": [taint]},
            }),
        )
        .await
        .update();
    assert_eq!(update["params"][0], json!({"type": "LabelsToAdd", "value": r#"{"tier":"burst"}"#}));
    assert_eq!(update["params"][1]["type"], "TaintsToAdd");
    assert_eq!(eks.nodegroup().await["labels"], json!({}));
    eks.finished(&update["id"]).await;
    let group = eks.nodegroup().await;
    assert_eq!(group["labels"], json!({"tier": "burst"}));
    assert_eq!(group["taints"], json!([taint]));
    assert_eq!(group["scalingConfig"]["desiredSize"], 3);
    assert!(events.try_recv().is_err());
}

#[tokio::test]
async fn scaling_events_follow_the_desired_size() {
    let (aws, eks) = prod(Duration::from_millis(50)).await;
    let mut events = aws.scaling_events();
    let next = async |events: &mut tokio::sync::broadcast::Receiver<NodegroupScaled>| {
        let event = tokio::time::timeout(LIMIT, events.recv()).await.expect("no event").unwrap();
        (event.cluster, event.nodegroup, event.desired)
    };
    let event = |group: &str, desired: u32| ("prod".to_owned(), group.to_owned(), desired);

    eks.post(UPDATE, json!({"scalingConfig": {"maxSize": 40}})).await.update();
    until("the maximum is raised", || async { (sizes(&aws).await.max == 40).then_some(()) }).await;
    let update = until("the group is idle again", || async {
        let answer = eks.scale(30).await;
        (answer.status == 200).then(|| answer.update())
    })
    .await;
    assert_eq!(next(&mut events).await, event("api", 30));
    assert_eq!(sizes(&aws).await.desired, 30);
    assert_eq!(eks.describe_update(&update["id"]).await["status"], "Successful");

    aws.create_nodegroup("prod", "batch", 0, 1, 5).await.unwrap();
    assert_eq!(next(&mut events).await, event("batch", 1));
    let body = json!({
        "nodegroupName": "web", "nodeRole": "arn:aws:iam::123456789012:role/node", "subnets": ["subnet-1"],
        "scalingConfig": {"minSize": 1, "desiredSize": 2, "maxSize": 3},
    });
    assert_eq!(eks.post("/clusters/prod/node-groups", body).await.status, 200);
    assert_eq!(next(&mut events).await, event("web", 2));
    let deletion = eks.try_call(Method::DELETE, "/clusters/prod/node-groups/web", None).await.unwrap();
    assert_eq!(deletion.status, 200);
    assert_eq!(next(&mut events).await, event("web", 0));
    assert!(events.try_recv().is_err());
}

#[tokio::test]
async fn error_faults_have_no_effect_unless_asked() {
    let (aws, eks) = prod(SLOW).await;
    aws.inject(Operation::UpdateNodegroupConfig, Fault::throttled().times(2));
    aws.inject(Operation::UpdateNodegroupConfig, Fault::server_error());
    aws.inject(Operation::UpdateNodegroupConfig, Fault::access_denied());
    aws.inject(Operation::UpdateNodegroupConfig, Fault::request_limit_exceeded());
    aws.inject(Operation::UpdateNodegroupConfig, Fault::error(503, "ServiceUnavailableException", "busy"));
    aws.inject(Operation::DescribeNodegroup, Fault::throttled());
    assert_eq!(aws.faults_left(), 7);

    for expected in [
        (429, "ThrottlingException"),
        (429, "ThrottlingException"),
        (500, "ServerException"),
        (403, "AccessDeniedException"),
        (400, "InvalidRequestException"),
        (503, "ServiceUnavailableException"),
    ] {
        assert_eq!(eks.scale(4).await.error(), expected);
    }
    assert_eq!(aws.faults_left(), 1);
    assert_eq!(eks.get(GROUP).await.error(), (429, "ThrottlingException"));
    assert_eq!(aws.faults_left(), 0);
    assert_eq!(eks.nodegroup().await["status"], "ACTIVE");

    aws.inject(Operation::UpdateNodegroupConfig, Fault::server_error().after_effect());
    assert_eq!(eks.scale(4).await.error(), (500, "ServerException"));
    assert_eq!(eks.nodegroup().await["status"], "UPDATING");
}

#[tokio::test]
async fn dropped_connection_may_have_happened() {
    let (aws, eks) = prod(SLOW).await;
    let drop_one = async |fault: Fault| {
        aws.inject(Operation::UpdateNodegroupConfig, fault);
        let body = json!({"clientRequestToken": "t", "scalingConfig": {"desiredSize": 4}});
        let answer = eks.try_call(Method::POST, UPDATE, Some(body)).await;
        let error = answer.err().expect("the connection was dropped");
        assert!(!error.is_timeout() && !error.is_connect(), "{error:?}");
        assert!(error.source().is_some());
    };
    drop_one(Fault::dropped_connection()).await;
    assert_eq!(eks.nodegroup().await["status"], "ACTIVE");
    drop_one(Fault::dropped_connection().after_effect()).await;
    assert_eq!(eks.nodegroup().await["status"], "UPDATING");

    // Both ways to find out: the token, and the list.
    let body = json!({"clientRequestToken": "t", "scalingConfig": {"desiredSize": 4}});
    let update = eks.post(UPDATE, body).await.update();
    let listed = eks.get("/clusters/prod/updates?nodegroupName=api").await.body;
    assert_eq!(listed["updateIds"], json!([update["id"]]));
}

#[tokio::test]
async fn hang_lasts_until_the_client_gives_up() {
    let (aws, mut eks) = prod(SLOW).await;
    let patience = Duration::from_millis(300);
    eks.http = Client::builder().no_proxy().timeout(patience).build().unwrap();
    let body = json!({"scalingConfig": {"desiredSize": 4}});

    aws.inject(Operation::UpdateNodegroupConfig, Fault::hang());
    let begun = Instant::now();
    let error = eks.try_call(Method::POST, UPDATE, Some(body.clone())).await.err().expect("no answer");
    assert!(error.is_timeout(), "{error:?}");
    assert!(begun.elapsed() >= patience);
    eks.http = Client::builder().no_proxy().build().unwrap();
    assert_eq!(eks.nodegroup().await["status"], "ACTIVE");

    aws.inject(Operation::UpdateNodegroupConfig, Fault::hang().after_effect());
    let hanging = eks.try_call(Method::POST, UPDATE, Some(body));
    let seen = until("the group is updating", || async {
        (eks.nodegroup().await["status"] == "UPDATING").then_some(())
    });
    tokio::select! {
        answer = hanging => panic!("answered: {:?}", answer.map(|answer| answer.status)),
        () = seen => {}
    }
}

#[tokio::test]
async fn calls_are_recorded_as_they_came() {
    let (aws, eks) = prod(SLOW).await;
    assert!(aws.calls().is_empty(), "the helpers' calls are not the client's");
    let body = json!({"clientRequestToken": "run-7", "scalingConfig": {"desiredSize": 4}});
    aws.inject(Operation::UpdateNodegroupConfig, Fault::throttled());
    eks.post(UPDATE, body.clone()).await;
    eks.get("/clusters/prod/updates/x?nodegroupName=api").await;

    let calls = aws.calls();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].operation, Operation::UpdateNodegroupConfig);
    assert_eq!((calls[0].method.as_str(), calls[0].path.as_str()), ("POST", UPDATE));
    assert_eq!(calls[0].client_request_token.as_deref(), Some("run-7"));
    assert_eq!(calls[0].body, Some(body));
    assert_eq!(calls[1].operation, Operation::DescribeUpdate);
    assert_eq!(calls[1].query.as_deref(), Some("nodegroupName=api"));
    assert!(calls[1].at >= calls[0].at);
    assert_eq!(aws.calls_of(Operation::DescribeUpdate).len(), 1);
    aws.clear_calls();
    assert!(aws.calls().is_empty());
}

#[tokio::test]
async fn the_rest_goes_to_moto_and_back() {
    let (aws, eks) = prod(SLOW).await;
    assert_eq!(eks.get("/clusters").await.body["clusters"], json!(["prod"]));
    assert_eq!(eks.get("/clusters/prod").await.body["cluster"]["status"], "ACTIVE");
    assert_eq!(eks.get("/clusters/prod/node-groups?maxResults=1").await.body["nodegroups"], json!(["api"]));

    // Another service: the form body, the content type and the answer's XML pass unchanged.
    let scope = "testing/20260101/us-east-1/sts/aws4_request";
    let request = eks
        .http
        .post(&eks.url)
        .header(
            "authorization",
            format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=00"),
        )
        .header("content-type", "application/x-www-form-urlencoded")
        .body("Action=GetCallerIdentity&Version=2011-06-15");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    let xml = response.text().await.unwrap();
    assert!(xml.contains("<Account>123456789012</Account>"), "{xml}");
    assert_eq!(aws.calls_of(Operation::Other).len(), 2);

    // What moto has no route for is no AWS answer and does not look like one.
    let unknown = eks.post("/clusters/prod/node-groups/api/update-version", json!({})).await;
    assert_eq!(unknown.error(), (501, "NotImplementedByTestbed"));
}

#[tokio::test]
async fn unsigned_requests_are_refused() {
    let (_aws, eks) = prod(SLOW).await;
    let response = eks.http.get(format!("{}{GROUP}", eks.url)).send().await.unwrap();
    assert_eq!(response.status(), 403);
    assert_eq!(response.headers()["x-amzn-errortype"], "MissingAuthenticationTokenException");
}

#[tokio::test]
async fn helpers_name_what_is_wrong() {
    let (aws, _eks) = prod(SLOW).await;
    let refused = |result: Result<(), Error>| match result {
        Err(Error::Answer { operation, subject, status, .. }) => (operation, subject, status),
        other => panic!("{other:?}"),
    };
    let group = "CreateNodegroup";
    assert_eq!(refused(aws.create_cluster("prod").await), ("CreateCluster", "prod".to_owned(), 409));
    assert_eq!(
        refused(aws.create_nodegroup("test", "api", 1, 1, 1).await),
        (group, "test/api".to_owned(), 404)
    );
    assert_eq!(
        refused(aws.create_nodegroup("prod", "web", 3, 2, 9).await),
        (group, "prod/web".to_owned(), 400)
    );
    assert_eq!(
        refused(aws.set_nodegroup_health("prod", "web", Vec::new()).await),
        ("DescribeNodegroup", "prod/web".to_owned(), 404)
    );
}

/// Whether a new connection is refused: the server's port is closed.
async fn is_gone(url: &str) -> bool {
    let client = Client::builder().no_proxy().timeout(LIMIT).build().unwrap();
    client.get(url).send().await.is_err_and(|error| error.is_connect())
}

#[tokio::test]
async fn both_servers_are_gone_after_drop() {
    let (aws, eks) = prod(SLOW).await;
    let (front, moto) = (aws.endpoint_url().to_owned(), aws.moto_url().to_owned());
    eks.scale(4).await.update();
    assert!(!is_gone(&front).await && !is_gone(&moto).await);
    drop(aws);
    assert!(is_gone(&front).await, "{front} still answers");
    assert!(is_gone(&moto).await, "{moto} still answers");
    // A connection that the client had kept open is dead too.
    assert!(eks.try_call(Method::GET, GROUP, None).await.is_err());
}

#[tokio::test]
async fn both_servers_are_gone_after_a_panic() {
    let aws = AwsEndpoint::builder().start().await.unwrap();
    let (front, moto) = (aws.endpoint_url().to_owned(), aws.moto_url().to_owned());
    let task = tokio::spawn(async move {
        let _held = aws;
        panic!("on purpose");
    });
    assert!(task.await.unwrap_err().is_panic());
    assert!(is_gone(&front).await && is_gone(&moto).await);
}

/// Runs itself in a second process, which holds an endpoint until it is killed.
#[tokio::test]
async fn moto_is_gone_after_sigkill_of_its_user() {
    const HOLD: &str = "WAKALA_TESTBED_HOLD";
    if std::env::var_os(HOLD).is_some() {
        let aws = AwsEndpoint::builder().start().await.unwrap();
        println!("held: {}", aws.moto_url());
        tokio::time::sleep(SLOW).await;
        panic!("nobody killed this process");
    }
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "moto_is_gone_after_sigkill_of_its_user", "--nocapture"])
        .env(HOLD, "1")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let moto = loop {
        let line = lines.next_line().await.unwrap().expect("the holder ended early");
        if let Some((_, url)) = line.split_once("held: ") {
            break url.to_owned();
        }
    };
    assert!(!is_gone(&moto).await);
    holder.kill().await.unwrap();
    until("moto is gone", || async { is_gone(&moto).await.then_some(()) }).await;
}

/// Runs another test of this file where moto is not installed: it fails, and its output says what to do.
#[tokio::test]
async fn missing_moto_fails_with_the_command_to_run() {
    let empty = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "unsigned_requests_are_refused", "--nocapture"])
        .env("WAKALA_CACHE_DIR", empty.path())
        .output()
        .await
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{printed}");
    assert!(printed.contains("NotInstalled"), "{printed}");
    let error = Error::NotInstalled { folder: empty.path().join("moto") };
    assert!(error.to_string().ends_with("run ./scripts/install-moto"), "{error}");
}
