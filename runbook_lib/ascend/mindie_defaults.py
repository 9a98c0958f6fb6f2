"""Default MindIE service configurations, one per generation of the schema.

Keys and values: MindIE-LLM service_parameter_configuration and the mindie_service0285 pages. The version
string inside the file is the same in both generations, so they are told apart by their keys.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

Schema = Literal["1.0", "2.x"]
Json = dict[str, Any]


def _tls_files(prefix: str, folder: str) -> Json:
    """Certificate keys of a plane; they matter only when TLS is on, but the daemon wants them present."""
    base = f"security/{folder}" if folder else "security"
    certs = f"security/certs/{folder}" if folder else "security/certs"
    keys = f"security/keys/{folder}" if folder else "security/keys"
    return {
        f"{prefix}CaFile": [f"{folder}_ca.pem" if folder else "ca.pem"],
        f"{prefix}Cert": f"{certs}/server.pem",
        f"{prefix}Pk": f"{keys}/server.key.pem",
        f"{prefix}CrlPath": f"{base}/certs/",
        f"{prefix}CrlFiles": ["server_crl.pem"],
    }


def _server(schema: Schema) -> Json:
    server: Json = {
        "ipAddress": "127.0.0.1",
        "managementIpAddress": "127.0.0.2",
        "port": 1025,
        "managementPort": 1026,
        "metricsPort": 1027,
        "allowAllZeroIpListening": False,
        "maxLinkNum": 1000,
        "httpsEnabled": True,
        "fullTextEnabled": False,
        "tlsCaPath": "security/ca/",
        **_tls_files("tls", ""),
        **_tls_files("managementTls", "management"),
        "inferMode": "standard",
        "interCommTLSEnabled": True,
        "interCommPort": 1121,
        "interCommTlsCaPath": "security/grpc/ca/",
        "interCommTlsCaFiles": ["ca.pem"],
        "interCommTlsCert": "security/grpc/certs/server.pem",
        "interCommPk": "security/grpc/keys/server.key.pem",
        "interCommTlsCrlPath": "security/grpc/certs/",
        "interCommTlsCrlFiles": ["server_crl.pem"],
        "openAiSupport": "vllm",
    }
    if schema == "1.0":
        server |= {
            "tlsPkPwd": "security/pass/key_pwd.txt",
            "managementTlsPkPwd": "security/pass/management/key_pwd.txt",
            "interCommPkPwd": "security/grpc/pass/key_pwd.txt",
            "kmcKsfMaster": "tools/pmt/master/ksfa",
            "kmcKsfStandby": "tools/pmt/standby/ksfb",
        }
    else:
        server |= {
            **_tls_files("metricsTls", "metrics"),
            "tokenTimeout": 600,
            "e2eTimeout": 600,
            "distDPServerEnabled": False,
        }
    return server


def _backend(schema: Schema) -> Json:
    model: Json = {
        "modelInstanceType": "Standard",
        "modelName": "llama_65b",
        "modelWeightPath": "/data/atb_testdata/weights/llama1-65b-safetensors",
        "worldSize": 4,
        "cpuMemSize": 5,
        "npuMemSize": -1,
        "backendType": "atb",
        "trustRemoteCode": False,
    }
    backend: Json = {
        "backendName": "mindieservice_llm_engine",
        "modelInstanceNumber": 1,
        "npuDeviceIds": [[0, 1, 2, 3]],
        "tokenizerProcessNumber": 8,
        "multiNodesInferEnabled": False,
        "multiNodesInferPort": 1120,
        "interNodeTLSEnabled": True,
        "interNodeTlsCaPath": "security/grpc/ca/",
        "interNodeTlsCaFiles": ["ca.pem"],
        "interNodeTlsCert": "security/grpc/certs/server.pem",
        "interNodeTlsPk": "security/grpc/keys/server.key.pem",
        "interNodeTlsCrlPath": "security/grpc/certs/",
        "interNodeTlsCrlFiles": ["server_crl.pem"],
        "ModelDeployConfig": {
            "maxSeqLen": 2560,
            "maxInputTokenLen": 2048,
            "truncation": False if schema == "1.0" else 0,
            "ModelConfig": [model],
        },
        "ScheduleConfig": {
            "templateType": "Standard",
            "templateName": "Standard_LLM",
            "cacheBlockSize": 128,
            "maxPrefillBatchSize": 50,
            "maxPrefillTokens": 8192,
            "prefillTimeMsPerReq": 150,
            "prefillPolicyType": 0,
            "decodeTimeMsPerReq": 50,
            "decodePolicyType": 0,
            "maxBatchSize": 200,
            "maxIterTimes": 512,
            "maxPreemptCount": 0,
            "supportSelectBatch": False,
            "maxQueueDelayMicroseconds": 5000,
        },
    }
    if schema == "1.0":
        backend |= {
            "interNodeTlsPkPwd": "security/grpc/pass/mindie_server_key_pwd.txt",
            "interNodeKmcKsfMaster": "tools/pmt/master/ksfa",
            "interNodeKmcKsfStandby": "tools/pmt/standby/ksfb",
        }
    return backend


_LOG: dict[Schema, Json] = {
    "1.0": {"logLevel": "Info", "logFileSize": 20, "logFileNum": 20, "logPath": "logs/mindie-server.log"},
    "2.x": {"dynamicLogLevel": "", "dynamicLogLevelValidHours": 2, "dynamicLogLevelValidTime": ""},
}


def default_config(schema: Schema) -> Json:
    """Return a fresh copy of the default configuration of one generation."""
    return {
        "Version": "1.0.0",
        "LogConfig": copy.deepcopy(_LOG[schema]),
        "ServerConfig": _server(schema),
        "BackendConfig": _backend(schema),
    }
