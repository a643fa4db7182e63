"""What a user acts on, in Korean: LANG=ko shows errors, warnings and hints by this table, line by line, whatever it lacks in English.

English line → Korean line, without indent and label. A field has the last part of the name that the code formats ({settings.length} →
{length}; a call: what it counts). No particle follows a field, since 이/가 and 은/는 depend on its last sound. tests/test_messages.py finds
lines that the code no longer has.
"""

import functools
import os
import re

# fmt: off
MESSAGES = {
    # ---- missing data
    "{path} does not exist.": "{path}: 파일이나 폴더가 없다.",
    "Run first: make refine RAW=… REFINED={refined}": "먼저 실행: make refine RAW=… REFINED={refined}",
    "Put a dictionary under RAW/01_medical_dict and run: make refine": "사전을 RAW/01_medical_dict에 넣고 실행: make refine",
    "Put exam questions under RAW/02_kor_med_test (make data fetches KorMedMCQA) and run: make refine":
        "시험 문제를 RAW/02_kor_med_test에 넣고(KorMedMCQA는 make data로 받는다) 실행: make refine",
    "Put raw data there (README, “Your data”), or name its folder: make refine RAW=…":
        "원본 데이터를 그곳에 넣거나(README.ko.md의 “내 데이터”), 폴더를 지정한다: make refine RAW=…",
    "{raw} holds none of {kinds} with readable files in it.": "{raw}에 읽을 수 있는 파일이 든 {kinds} 폴더가 없다.",
    "Put data there as the README says under “Your data”, or try the sample: make refine RAW={sample}":
        "README.ko.md의 “내 데이터”대로 데이터를 넣거나, 샘플로 실행한다: make refine RAW={sample}",
    "{refined} has room for {free} bytes, and refine needs up to {need} there: twice the raw data, unpacked.":
        "{refined}에 {free}바이트가 남아 있다. 정제에는 최대 {need}바이트(압축을 푼 원본의 두 배)가 필요하다.",
    "Free some space, or name another place: make refine REFINED=…": "공간을 확보하거나 다른 위치를 지정한다: make refine REFINED=…",
    "nothing was kept. See why in {rejected}; {refined} is as it was.": "정제 후 남은 데이터가 없다. 이유는 {rejected}에 있다. 기존 {refined}: 그대로 있다.",
    "{text} holds no train*.jsonl.": "{text}에 train*.jsonl이 없다.",
    "{heldout} is empty, so nothing could be measured.": "{heldout}: 비어 있어 측정할 수 없다.",
    "Hold more out: make refine REFINED={refined} ARGS='--heldout-share 0.1'   or measure none: --heldout 0":
        "검증용 비율을 늘리거나: make refine REFINED={refined} ARGS='--heldout-share 0.1'   측정을 생략한다: --heldout 0",
    "the text does not fill one row of {length} tokens. Add text, or lower --length.":
        "텍스트가 {length}토큰 시퀀스 하나도 채우지 못한다. 텍스트를 늘리거나 --length를 줄인다.",
    "{dictionary} holds no entry to teach.": "{dictionary}에 학습할 항목이 없다.",
    "{exam} needs questions in both train.jsonl and dev.jsonl.": "{exam}의 train.jsonl과 dev.jsonl에 모두 문제가 있어야 한다.",
    "{test} is empty.": "{test}: 비어 있다.",
    "--shots {shots}: {subject} has {count} few-shot rows. KorMedMCQA has five a subject: put its":
        "--shots {shots}: {subject} 과목의 few-shot 예시가 {count}개뿐이다. KorMedMCQA에는 과목마다 다섯 개가 있다.",
    "fewshot.jsonl under RAW/02_kor_med_test and run make refine again, or leave --shots out.":
        "fewshot.jsonl을 RAW/02_kor_med_test에 넣고 make refine을 다시 실행하거나, --shots를 뺀다.",
    "neither {refined} nor {out} holds anything to report on.": "{refined}, {out}: 보고할 결과가 없다.",
    "Name the folders: make report REFINED=… OUT=…   or make some: make demo": "폴더를 지정하거나: make report REFINED=… OUT=…   먼저 만든다: make demo",
    "{repository} can't be reached ({error}). Without a network download it elsewhere":
        "{repository}에 연결할 수 없다({error}). 네트워크가 없으면 다른 곳에서 받아",
    "and put it into {where}; then: make refine RAW={raw}": "{where}에 넣은 다음 실행한다: make refine RAW={raw}",
    "no set of the name {unknown}. There are: {sources}": "{unknown}: 없는 데이터셋이다. 쓸 수 있는 것: {sources}",
    "{name}, set aside: {reasons}": "{name}, 제외: {reasons}",
    "{name}: missing_field: the fields should be {wanted}{how}; found: {there}":
        "{name}: missing_field: 있어야 할 필드는 {wanted}{how}, 파일에 있는 필드는 {there}",
    "dictionary: {terms} terms under {least} characters and {definitions} definitions under {definition_least} were set aside; "
    'to keep them: ARGS="--term-least 1 --definition-least 1"':
        '사전: {least}글자 미만 용어 {terms}개와 {definition_least}글자 미만 뜻풀이 {definitions}개를 제외했다. '
        '남기려면: ARGS="--term-least 1 --definition-least 1"',
    "written to {refined}; examples of what was set aside, with reason, file and line: {rejected}":
        "저장한 곳: {refined}. 제외한 데이터의 예(이유, 파일, 행 번호): {rejected}",
    "[bold]not read[/]: {path} ({size} bytes): {why}": "[bold]읽지 않은 파일[/]: {path} ({size}바이트): {why}",
    "next: make refine RAW={raw}": "다음: make refine RAW={raw}",
    # ---- broken data
    "{path} is not JSON ({error}). Run make refine again.": "{path}: JSON이 아니다({error}). make refine을 다시 실행한다.",
    '{path}, line {number}: not a {{"text": …}} record. Run make refine again.':
        '{path} {number}행: {{"text": …}} 형식이 아니다. make refine을 다시 실행한다.',
    "{path}, entry {number}: term or definition is missing. Run make refine again.":
        "{path} {number}번째 항목: term이나 definition이 없다. make refine을 다시 실행한다.",
    "{path}, line {number}: not a refined exam question. Run make refine again.":
        "{path} {number}행: 정제된 시험 문제 형식이 아니다. make refine을 다시 실행한다.",
    "{file} holds answers from 0 to 4 and no 5. Counted from 0 they are A to E; counted from 1, a 0 is no answer, and every":
        "{file}의 정답은 0–4이고 5가 없다. 0부터 센 것이면 0–4가 A–E이고, 1부터 센 것이면 0은 정답이 아니며 나머지는 한 글자씩 앞이 된다.",
    "other one means the letter before. If 0 is A: make refine ARGS=--zero-based. If not, take the questions with a 0 out.":
        "0이 A이면: make refine ARGS=--zero-based   아니면 정답이 0인 문제를 뺀다.",
    "RAW {raw} and REFINED {refined} {how}; nothing was touched.": "RAW {raw}, REFINED {refined}: {how}. 아무것도 바꾸지 않았다.",
    "Name another: make refine REFINED=…": "다른 폴더를 지정한다: make refine REFINED=…",
    "are one folder": "같은 폴더이다",
    "lie one in the other": "한쪽이 다른 쪽 안에 있다",
    "workers were killed {tries} times over, most likely for want of memory. What was finished is kept:":
        "워커가 {tries}번 강제 종료되었다. 메모리 부족으로 보인다. 끝난 부분은 남아 있다.",
    'run the same command again with fewer of them: ARGS="--workers 1"': '워커 수를 줄여 같은 명령을 다시 실행한다: ARGS="--workers 1"',
    "--engine ray needs Ray: .venv/bin/python -m pip install -e '.[ray]'":
        "--engine ray에는 Ray가 필요하다: .venv/bin/python -m pip install -e '.[ray]'",
    # ---- base model: missing, gated, damaged, of another kind
    "{name} is gated, and this machine may not read it: licence not accepted, or no token.":
        "{name}: 접근 승인이 필요한 모델이다(gated). 약관에 동의하지 않았거나 토큰이 없다.",
    "Accept its terms at https://huggingface.co/{name}, then run: .venv/bin/hf auth login":
        "https://huggingface.co/{name} 에서 약관에 동의한 다음 실행: .venv/bin/hf auth login",
    "the hub knows no {name}, or this machine's token may not see it.": "{name}: 허브에 없거나, 이 컴퓨터의 토큰에 권한이 없다.",
    "Check the spelling of {named}=…": "{named}=…의 철자를 확인한다.",
    "{name} is not on this machine, and the hub does not answer.": "{name}: 이 컴퓨터에 없고, 허브가 응답하지 않는다.",
    "With a network: .venv/bin/hf download {name}   Without one: {named}=a/local/folder, or make demo.":
        "네트워크가 있으면: .venv/bin/hf download {name}   없으면: {named}=모델/폴더, 또는 make demo",
    "{name} has no commit or branch {revision}.": "{name}: 커밋이나 브랜치가 없다({revision}).",
    "Leave @{revision} out for the newest.": "최신 버전을 쓰려면 @{revision} 부분을 뺀다.",
    "Name a folder, or a hub name: {named}=google/medgemma-4b-it": "폴더나 허브 이름을 지정한다: {named}=google/medgemma-4b-it",
    "{named}={base} is neither a folder nor a hub name.": "{named}={base}: 폴더도 허브 이름도 아니다.",
    "{named}={base} is a file; name the model's folder: {named}={parent}": "{named}={base}: 파일이다. 모델 폴더를 지정한다: {named}={parent}",
    "{named}={base} is a GGUF file, which can be run and not trained; name the folder of safetensors that it was made of.":
        "{named}={base}: GGUF 파일이다. 실행만 할 수 있고 학습할 수 없다. 변환하기 전의 safetensors 폴더를 지정한다.",
    "Run first: make stage{last} OUT={out}   (or name a model as BASE=…)": "먼저 실행: make stage{last} OUT={out}   (또는 BASE=…로 모델 지정)",
    "Run first: make stage{stage} OUT={out}   (or export another stage: ARGS='--stage …')":
        "먼저 실행: make stage{stage} OUT={out}   (또는 다른 단계를 내보낸다: ARGS='--stage …')",
    "{folder} holds no model: config.json is missing.": "{folder}에 모델이 없다(config.json 없음).",
    "Name a model folder or a hub name.": "모델 폴더나 허브 이름을 지정한다.",
    "{folder} holds an adapter and no model: {adapter} without config.json.": "{folder}에 어댑터만 있고 모델이 없다({adapter}만 있고 config.json이 없음).",
    "Merge it into its base first (peft: merge_and_unload, then save_pretrained), and name the merged folder.":
        "먼저 베이스 모델에 병합하고(peft: merge_and_unload 후 save_pretrained) 병합한 폴더를 지정한다.",
    "{folder} is a {kind} model; kmlite works with Gemma 3 ones.{why}": "{folder}: {kind} 모델이다. kmlite는 Gemma 3 모델만 지원한다.{why}",
    "Name MedGemma or a gemma-3-*.": "MedGemma나 gemma-3-*를 지정한다.",
    "{folder} is quantised already ({key} in config.json). kmlite quantises the 16-bit model by itself.":
        "{folder}: 이미 양자화된 모델이다(config.json의 {key}). kmlite는 16비트 모델을 직접 양자화한다.",
    "Take the model as its maker published it, without -bnb-4bit, -GPTQ, -AWQ or -FP8 in its name.":
        "이름에 -bnb-4bit, -GPTQ, -AWQ, -FP8이 없는 원본 모델을 쓴다.",
    "{folder} has no chat template, so it was not trained to answer.": "{folder}에 채팅 템플릿이 없다. 지시를 따르도록 학습하지 않은 모델이다.",
    "Take the instruction-tuned one: a name that ends in -it.": "이름이 -it로 끝나는 모델을 쓴다.",
    "{folder} has no tokenizer.json.": "{folder}에 tokenizer.json이 없다.",
    "Copy it from the model's repository.": "모델 저장소에서 복사해 온다.",
    "{folder} {found}. Pickled weights are never loaded.": "{folder}: {found}. pickle 가중치는 불러오지 않는다.",
    "has no .safetensors weights": ".safetensors 가중치가 없다",
    "{folder} lacks {gone} of {count} weight files: {names}.": "{folder}에 가중치 파일 {count}개 가운데 {gone}개가 없다: {names}.",
    "{file} ({size:,} bytes) is cut short or damaged: {why}.": "{file} ({size:,}바이트): 파일이 잘렸거나 손상되었다({why}).",
    "{folder} holds no finished model.": "{folder}에 완성된 모델이 없다.",
    "Run first: make stage{before} OUT={out}   (or name another model as BASE=…)":
        "먼저 실행: make stage{before} OUT={out}   (또는 BASE=…로 다른 모델 지정)",
    "Fetch what is missing or damaged: .venv/bin/hf download {name} --revision {revision}   (--force-download replaces all)":
        "빠지거나 손상된 파일을 다시 받는다: .venv/bin/hf download {name} --revision {revision}   (--force-download는 전부 다시 받음)",
    "Make it anew: make stage{number} OUT={out} ARGS=--restart": "다시 만든다: make stage{number} OUT={out} ARGS=--restart",
    "Fetch or copy it anew, for example: .venv/bin/hf download google/medgemma-4b-it --local-dir {folder}":
        "다시 받거나 복사한다. 예: .venv/bin/hf download google/medgemma-4b-it --local-dir {folder}",
    "{model} answers plain text with a loss of {loss}: its weights hold NaN or infinity,":
        "{model}의 일반 텍스트 손실이 {loss}이다. 가중치에 NaN이나 무한대가 있거나, 이 정밀도에서 오버플로가 난다.",
    "or overflow in this precision. Training can't fix that: fetch the base again, or try ARGS='--precision 16bit'.":
        "학습으로는 고칠 수 없다. 베이스 모델을 다시 받거나 ARGS='--precision 16bit'로 실행한다.",
    # ---- card and memory
    "out of GPU memory at batch {batch}, sequences of {length} tokens. nvidia-smi shows who else uses the card.":
        "GPU 메모리가 부족하다(배치 {batch}, 시퀀스 {length}토큰). 카드를 쓰는 다른 프로그램은 nvidia-smi로 확인한다.",
    "make doctor shows what fits; less takes: ARGS='--batch 1 --length {half} --precision 4bit'.":
        "들어가는 설정은 make doctor가 보여 준다. 메모리를 줄이려면: ARGS='--batch 1 --length {half} --precision 4bit'",
    "out of GPU memory: batch {batch} → {now_batch}, accumulation {accumulation} → {now_accumulation}, going on from step {step}":
        "GPU 메모리 부족: 배치 {batch} → {now_batch}, 누적 {accumulation} → {now_accumulation}, {step}스텝부터 계속한다",
    "this card has no bfloat16, and trained embedding rows would overflow in float16.":
        "이 카드는 bfloat16을 지원하지 않아, 임베딩 행을 학습하면 float16에서 오버플로가 난다.",
    "Add ARGS='--new-tokens 0 --embeddings none'.": "ARGS='--new-tokens 0 --embeddings none'을 준다.",
    "4-bit weights were asked for and Unsloth loaded 16-bit ones, since bitsandbytes does not run here.":
        "4비트를 요청했으나 bitsandbytes가 동작하지 않아 Unsloth가 16비트로 불러왔다.",
    "What it says: .venv/bin/python -m bitsandbytes   Without it: ARGS='--precision 16bit'":
        "원인 확인: .venv/bin/python -m bitsandbytes   16비트로 실행: ARGS='--precision 16bit'",
    "GPUS={together} does not divide the accumulation of {accumulation}: add --accumulation.":
        "GPUS={together}: 누적 {accumulation}의 약수가 아니다. --accumulation을 지정한다.",
    "the card has no room for {name} in {precision} weights. Close what else runs there, or: ARGS='--precision 4bit'":
        "{name}: 카드 메모리가 부족해 {precision} 가중치로 불러올 수 없다. 다른 프로그램을 닫거나: ARGS='--precision 4bit'",
    "none: a CPU is enough for make demo, make refine and make report; MedGemma would train for months":
        "CUDA 카드 없음: CPU로는 내장 모델(make demo)만 실행할 수 있고, MedGemma 크기의 모델은 너무 오래 걸린다",
    "nvidia-smi answers, torch sees no card": "nvidia-smi는 되지만 torch가 카드를 찾지 못한다",
    "torch is a CPU build": "CPU용 torch가 설치되어 있다",
    "too little main memory to merge": "병합하기에 메인 메모리(RAM)가 부족하다",
    "{wrong} packages differ from {lock}": "{lock}: 버전이 다른 패키지 {wrong}개",
    "no raw data in {raw}": "{raw}에 원본 데이터가 없다",
    "{refined} holds no {needs} for {step}": "{refined}에 {step}에 필요한 {needs} 데이터가 없다",
    "[bold red]The next step can't run:[/]": "[bold red]다음 단계를 실행할 수 없다:[/]",
    "[bold]Ready.[/] The next step: make {step}": "[bold]준비되었다.[/] 다음 단계: make {step}",
    "nothing there": "데이터 없음",
    "make data, or put yours there (README, “Your data”)": "make data로 받거나, 내 데이터를 넣는다(README.ko.md의 “내 데이터”)",
    "Add it below {raw} and run: make refine": "{raw} 아래에 데이터를 넣고 실행: make refine",
    "{texts} texts, {entries} dictionary entries, questions: {train} train, {test} test":
        "텍스트 {texts}건, 사전 {entries}항목, 문제: train {train}개, test {test}개",
    "none: without English text in {raw} stage 0 may forget English; make data fetches some":
        "없음: {raw}에 영어 텍스트가 없으면 0단계에서 영어를 잊을 수 있다. make data로 받는다",
    "{free} GB free at {place}, {step} needs up to {need} GB": "{place}: 여유 공간 {free} GB, {step}에 최대 {need} GB 필요",
    "{free} GB free at {place}": "{place}: 여유 공간 {free} GB",
    "{free} GB free with swap, a merge takes {wants} GB": "여유 메모리(RAM과 스왑) {free} GB, 병합에 {wants} GB 필요",
    "Add swap space; in WSL raise memory= in .wslconfig (docs/help.md).":
        "스왑을 추가한다. WSL이면 .wslconfig의 memory=를 늘린다(docs/ko/help.md).",
    "too little room for {step} at {place}": "{place}: {step}에 필요한 공간이 부족하다",
    "Close other programs.": "다른 프로그램을 닫는다.",
    "Name another one: BASE=…": "다른 모델을 지정한다: BASE=…",
    "{what} (needed by stage 0 alone)": "{what} (0단계에만 필요)",
    "{base} can be fetched; stage 0 will do it": "{base}: 내려받을 수 있다. 0단계가 받는다",
    "Plan for {base}, {parameters} billion parameters (calculated, not measured: docs/gpu.md)":
        "{base} 계획: 파라미터 {parameters}×10억 개 (측정이 아니라 계산한 값: docs/ko/gpu.md)",
    "~ estimated from the card's published peak; after a stage has run here, the rate that it measured.":
        "~ 카드의 공개된 최대 성능으로 추정한 값. 한 단계를 실행하면 실제로 측정한 속도로 바뀐다.",
    "No hours: {refined} holds no refined data yet.": "시간은 아직 알 수 없다: {refined}에 정제한 데이터가 없다.",
    "Tokens to train on (of exam questions in a loop), at {token} characters each: {listed}":
        "학습할 토큰(시험 문제는 루프당, 토큰당 {token}글자로 추정): {listed}",
    "Text for stage 0: {has} of the {least} million tokens that EEVE-style training asks for; it runs on less":
        "0단계 텍스트: EEVE 방식에 필요한 {least}백만 토큰 가운데 {has}백만 토큰. 적어도 실행된다",
    # ---- disk
    "this stage writes up to {need:.1f} GB below {place}, and {free:.1f} GB are free.":
        "이 단계는 {place}에 {need:.1f} GB까지 쓰는데 여유 공간이 {free:.1f} GB이다.",
    "Free some space, or name another place: OUT=…": "공간을 확보하거나 다른 위치를 지정한다: OUT=…",
    "a checkpoint needs {need:.2f} GB in {folder}, and {free:.2f} GB are free.":
        "체크포인트를 저장하려면 {folder}에 {need:.2f} GB가 필요한데 여유 공간이 {free:.2f} GB이다.",
    "The last one is whole. Free some space and run the same command to go on.": "마지막 체크포인트는 온전하다. 공간을 확보하고 같은 명령을 다시 실행하면 이어진다.",
    "the disk is full": "디스크가 가득 찼다",
    "the disk quota is used up": "디스크 할당량을 모두 썼다",
    "no permission": "권한이 없다",
    "that file system is read-only": "읽기 전용 파일 시스템이다",
    "the disk reports an input/output error": "디스크 입출력 오류가 났다",
    "Free some space and run the same command again: what was finished is kept.": "공간을 확보하고 같은 명령을 다시 실행한다. 끝난 부분은 남아 있다.",
    "Look at the disk (dmesg), free or replace it, and run the same command again: what was finished is kept.":
        "디스크를 확인하고(dmesg) 같은 명령을 다시 실행한다. 끝난 부분은 남아 있다.",
    "Name another place with REFINED=… or OUT=…, or correct its permissions.": "REFINED=…나 OUT=…으로 다른 위치를 지정하거나, 권한을 바로잡는다.",
    # ---- stop, resume, refuse
    "stopped. What was finished is kept; run the same command to go on.": "중단했다. 끝난 부분은 남아 있다. 같은 명령을 다시 실행하면 이어진다.",
    "stopped by {signal} after step {step} of {steps}, which is saved. Run the same command to go on.":
        "{signal}: 중단했다. {steps}스텝 가운데 {step}스텝까지 저장했다. 같은 명령을 다시 실행하면 이어진다.",
    "stopped at once; {where}. Run the same command to go on from there.": "바로 중단했다. {where}. 같은 명령을 다시 실행하면 그곳부터 이어진다.",
    "{signal}: ending after this step, and saving it (Ctrl-C again ends at once)":
        "{signal}: 현재 스텝을 마치고 저장한 뒤 끝낸다(Ctrl-C를 한 번 더 누르면 바로 끝난다)",
    "going on from {checkpoint}": "{checkpoint}부터 이어서 학습한다",
    "done before, nothing changed: {final}   (ARGS=--restart runs it again)": "이미 끝났고 바뀐 것이 없다: {final}   (다시 실행하려면 ARGS=--restart)",
    "done before, nothing changed (ARGS=--restart refines again)": "이미 끝났고 바뀐 것이 없다(다시 정제하려면 ARGS=--restart)",
    "done before, nothing changed (ARGS=--restart evaluates again)": "이미 끝났고 바뀐 것이 없다(다시 평가하려면 ARGS=--restart)",
    # kmlite/runs.py builds the next two out of {what} and {way}: as two templates each has its own Korean
    "{folder} holds an unfinished run of other settings or data:": "{folder}에 다른 설정이나 데이터로 학습하다 멈춘 실행이 있다:",
    "Run it as before to go on, or add ARGS=--restart to drop what it has and start anew.":
        "이전 설정으로 실행하면 이어진다. 버리고 새로 시작하려면 ARGS=--restart를 준다.",
    "{folder} holds a finished run of other settings or data:": "{folder}에 다른 설정이나 데이터로 학습을 마친 결과가 있다:",
    "Run it as before to keep it, name another OUT=…, or add ARGS=--restart to drop what it has and start anew.":
        "이전 설정으로 실행하면 그대로 남는다. 다른 OUT=…을 지정하거나, 버리고 새로 시작하려면 ARGS=--restart를 준다.",
    "{stored} is damaged, so nobody knows what the unfinished run beside it was asked to do.": "{stored}: 손상되어 멈춘 실행의 설정을 알 수 없다.",
    "Start anew: ARGS=--restart": "새로 시작한다: ARGS=--restart",
    "{final} is not as its run left it: weights, tokenizer or {record} were changed or are gone.":
        "{final}: 학습을 마쳤을 때와 다르다. 가중치, 토크나이저, {record} 가운데 바뀌거나 없어진 것이 있다.",
    "Put them back, or add ARGS=--restart to train it again.": "되돌려 놓거나, ARGS=--restart로 다시 학습한다.",
    "another run writes in {folder}: {holder}.": "{folder}: 다른 실행이 쓰고 있다({holder}).",
    "Wait for it to end, stop it, or name another folder.": "끝나기를 기다리거나, 그 실행을 중단하거나, 다른 폴더를 지정한다.",
    "{checkpoint} holds something else than weights and numbers, so it is not read. It was damaged, or is not yours.":
        "{checkpoint}에 가중치와 숫자가 아닌 것이 있어 읽지 않는다. 손상되었거나 다른 곳에서 온 것이다.",
    "Remove that folder to go on from the one before, or add ARGS=--restart to begin anew.":
        "그 폴더를 지우면 직전 체크포인트에서 이어진다. 새로 시작하려면 ARGS=--restart를 준다.",
    "[bold red]{step} ended with status {status}[/]; what was finished is kept, the same command goes on from there.":
        "[bold red]{step}: 종료 코드 {status}.[/] 끝난 부분은 남아 있고, 같은 명령을 다시 실행하면 이어진다.",
    # ---- losses and results
    "{stage}, before and after": "{stage}: 학습 전후",
    "What was learned, as measured": "학습 전후의 측정 결과",
    "[bold]also worse: {told}[/]": "[bold]그 밖에 나빠진 것: {told}[/]",
    "{tokens} tokens of text for each of {count} new tokens; about {row} are needed.":
        "새 토큰 {count}개에 텍스트가 하나당 {tokens}토큰뿐이다. 약 {row}토큰이 필요하다.",
    "On gemma-3-270m 5,000 raised bits per character by 12% on text and 26% on exam questions, which little text does not win back.":
        "gemma-3-270m에서 5,000개를 추가하자 글자당 비트가 텍스트 12%, 시험 문제 26% 늘었고, 적은 텍스트로는 회복되지 않는다.",
    "--new-tokens auto adds as many as the text can teach.": "--new-tokens auto는 텍스트로 학습할 수 있는 만큼만 추가한다.",
    "none: English may be forgotten; make data fetches some for RAW/03_replay":
        "없음: 영어를 잊을 수 있다. make data가 RAW/03_replay에 영어 텍스트를 받는다",
    "[bold red]warning: {step}-worse[/]": "[bold red]경고: {step}에서 모델이 나빠졌다[/]",
    "going on, as --accept-regression says": "--accept-regression에 따라 계속한다",
    "More text, more steps or a lower rate may help. To go on with it as it is: ARGS=--accept-regression":
        "텍스트나 스텝을 늘리거나 학습률을 낮추어 본다. 그대로 진행하려면: ARGS=--accept-regression",
    "the loss {what} at step {step}: the run diverged.": "{step}스텝에서 손실이 발산했다({what}).",
    "The {count} records of that step (and of the batch drawn next) are in {path}.": "그 스텝(과 다음 배치)의 레코드 {count}개가 {path}에 있다.",
    "The checkpoints before it are whole. Lower the learning rate and run again with ARGS='--restart --learning-rate …'.":
        "이전 체크포인트는 온전하다. 학습률을 낮추어 다시 실행한다: ARGS='--restart --learning-rate …'",
    "the loss {what} at step {step}, and was no number before: that is not the learning rate.":
        "{step}스텝의 손실이 NaN이고 그 전에도 그랬다. 학습률 문제가 아니다({what}).",
    "The weights of the base hold NaN or infinity, overflow in this precision, or a record of {path} is damaged.":
        "베이스 모델의 가중치에 NaN이나 무한대가 있거나, 이 정밀도에서 오버플로가 나거나, {path}의 레코드가 깨졌다.",
    "Take the base anew, or try ARGS='--restart --precision 16bit'.": "베이스 모델을 다시 받거나 ARGS='--restart --precision 16bit'로 실행한다.",
    "the loss jumped to {loss:.2f} at step {step}; {usual:.2f} was usual before it.":
        "{step}스텝에서 손실이 튀었다: {loss:.2f}(직전까지 {usual:.2f} 안팎).",
    "The {count} records of that step (and of the batch drawn next) are in {path}: look for broken ones.":
        "그 스텝(과 다음 배치)의 레코드 {count}개가 {path}에 있다. 깨진 것이 있는지 확인한다.",
    "Run the same command to go on past it from the last checkpoint, or again with a lower rate: ARGS='--restart --learning-rate …'.":
        "같은 명령을 다시 실행하면 마지막 체크포인트에서 그 지점을 지나 계속한다. 학습률을 낮추려면: ARGS='--restart --learning-rate …'",
    "not comparable. Besides the model, these differ between A and B:": "비교할 수 없다. 모델 말고도 A와 B에서 다른 것:",
    "Evaluate one of them again as the other was (ARGS=--restart where make eval says that nothing changed).":
        "한쪽을 다른 쪽과 같은 설정으로 다시 평가한다(make eval이 바뀐 것이 없다고 하면 ARGS=--restart).",
    "A and B are the same model": "A와 B가 같은 모델이다",
    "no significant difference (p ≥ 0.05)": "통계적으로 유의한 차이가 없다(p ≥ 0.05)",
    "a significant difference (p < 0.05)": "통계적으로 유의한 차이가 있다(p < 0.05)",
    "both: {how}": "공통 조건(both): {how}",
    "[bold]B − A: {difference} percentage points, 95% interval {low} to {high}; exact test p = {p}[/]":
        "[bold]B − A: {difference}%p, 95% 신뢰 구간 {low} – {high}, 정확 검정 p = {p}[/]",
    "gained (wrong in A, right in B)": "새로 맞힌 문제(A 오답, B 정답)",
    "lost (right in A, wrong in B)": "새로 틀린 문제(A 정답, B 오답)",
    "It is written by: make eval{how} (B), and with BASE=google/medgemma-4b-it (A).":
        "먼저 평가한다: make eval{how} (B), 그리고 BASE=google/medgemma-4b-it를 붙여서 (A).",
    "Other folders: make compare A=… B=…": "다른 폴더: make compare A=… B=…",
    # ---- evaluation, chat, export
    "[bold]{most} of {n} answers are {letter}[/]: a position bias. ARGS='--vote 5' averages over the orders.":
        "[bold]{n}개 가운데 {most}개를 {letter}로 답했다[/]: 위치 편향이다. ARGS='--vote 5'는 선택지 순서를 바꾸어 평균한다.",
    "{mb} MB, {seconds} s. Open it in a browser: {target}": "{mb} MB, {seconds}초. 브라우저로 연다: {target}",
    "{seconds} s in all. Next: make chat OUT={out}, or train MedGemma (README.md, “On your GPU”)":
        "모두 {seconds}초. 다음: make chat OUT={out}, 또는 MedGemma 학습(README.ko.md의 “내 GPU에서 실행하기”)",
    "written to {final}, {seconds} s": "저장한 곳: {final}, {seconds}초",
    "--vote {vote}: five options have 1 to 5 cyclic orders.": "--vote {vote}: 선택지가 다섯이므로 1–5만 된다.",
    "--shots {shots}: 0 or more examples.": "--shots {shots}: 0 이상이어야 한다.",
    "lm-eval {pinned} is not installed. Run: make extras": "lm-eval {pinned}: 설치되어 있지 않다. 실행: make extras",
    "lm-eval can't fetch its data set ({error}).": "lm-eval이 데이터셋을 받지 못했다({error}).",
    "Without a network put KorMedMCQA's files under RAW/02_kor_med_test and run: make refine":
        "네트워크가 없으면 KorMedMCQA 파일을 RAW/02_kor_med_test에 넣고 실행: make refine",
    "{out} holds no finished model.": "{out}에 완성된 모델이 없다.",
    "Name one: make chat MODEL=google/medgemma-4b-it   Train one: make pipeline OUT={out}   Look around first: make demo, then make chat OUT=model/demo":
        "모델 지정: make chat MODEL=google/medgemma-4b-it   학습: make pipeline OUT={out}   먼저 둘러보기: make demo 후 make chat OUT=model/demo",
    "that message is {count:,} tokens long, and {room:,} is what there is room for. Shorten it.":
        "메시지가 {count:,}토큰인데 {room:,}토큰까지만 된다. 줄여서 보낸다.",
    "/help lists the commands. Ctrl-C stops an answer, Ctrl-D leaves.": "/help: 명령 목록, Ctrl-C: 답 중단, Ctrl-D: 나가기",
    "there is no {command}; /help lists the commands": "{command}: 없는 명령이다. 명령 목록은 /help",
    "a question of the dev split: its probabilities, then the truth": "dev 문제 하나를 풀게 하고 선택지별 확률과 정답을 보인다",
    "forget the conversation and start anew": "대화를 잊고 새로 시작한다",
    "this list": "명령 목록",
    "leave; so does Ctrl-D": "나가기(Ctrl-D도 같다)",
    "Enter sends, Alt-Enter starts a new line, the arrow keys bring back what was typed. Ctrl-C stops an answer.": (
        "Enter: 보내기, Alt-Enter: 줄바꿈, 위아래 화살표: 이전 입력, Ctrl-C: 답 중단"
    ),
    "An exam question stands outside the conversation: the model is asked it by itself.": "시험 문제는 대화와 별개로 모델에 따로 묻는다.",
    "forgotten; a new conversation": "새 대화를 시작한다",
    "Ctrl-D or /quit leaves": "나가려면 Ctrl-D 또는 /quit",
    "the oldest {dropped} turns no longer fit into {length:,} tokens and are forgotten": (
        "가장 오래된 대화 {dropped}개가 {length:,}토큰에 들어가지 않아 뺐다"
    ),
    "{tokens} tokens, {rate:.0f} a second{why}": "{tokens}토큰, 초당 {rate:.0f}토큰{why}",
    "; cut at --max-new-tokens {most}": "; --max-new-tokens {most}에서 잘림",
    "; stopped": "; 중단",
    "; its thought never ended": "; 생각이 끝나지 않음",
    "dev question {number}": "dev 문제 {number}",
    "{answer} is {verdict}; right is {truth}: {text}": "모델의 답 {answer}: {verdict}. 정답 {truth}: {text}",
    "right ✓": "맞음 ✓",
    "wrong ✗": "틀림 ✗",
    "The five letters hold {mass:.0%} of the next token's probability; {way}.": "다음 토큰 확률 가운데 다섯 글자의 합: {mass:.0%} ({way})",
    "options as they stand": "선택지 순서 그대로",
    "/exam draws a question of the dev split, /exam 7 takes the seventh: each option's probability, then which one is right.": (
        "/exam: dev 문제 하나를 골라 선택지별 확률과 정답을 보인다. /exam 7: 일곱째 문제"
    ),
    "a second model beside it": "나란히 답할 두 번째 모델",
    "--web needs {name}. Run: make extras": "--web에 필요한 패키지가 없다: {name}. 실행: make extras",
    "port {port} can't be had ({error}). ARGS='--web --port 0' takes a free one.":
        "포트 {port}: 쓸 수 없다({error}). 빈 포트를 쓰려면: ARGS='--web --port 0'",
    "no loop of stage 2 was better on dev than the model it began with, so {final} is that model and there is no adapter.":
        "2단계의 어느 루프도 dev에서 처음 모델보다 낫지 않았다. {final}: 처음 모델 그대로이고 어댑터가 없다.",
    "What there is: {merged}": "내보낼 수 있는 것: {merged}",
    "this model descends from the embedded base: a stand-in is not uploaded, it would be taken for a medical model.":
        "내장 모델로 학습한 모델은 올리지 않는다. 의학 모델로 오해받을 수 있다.",
    "Train on MedGemma first: README.md, On your GPU.": "먼저 MedGemma로 학습한다: README.ko.md의 “내 GPU에서 실행하기”",
}
# fmt: on


def language() -> str:
    """ "ko" where the locale asks for Korean, by the order that POSIX gives its variables; else "en"."""
    chosen = next((os.environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(name)), "")
    return "ko" if chosen.lower().startswith("ko") else "en"


@functools.cache
def expressions() -> list[tuple[re.Pattern, str]]:
    """(expression of an English line, its Korean template), the most particular first."""
    found = []
    for english, korean in sorted(MESSAGES.items(), key=lambda pair: -len(re.sub(r"\{[^{}]*\}", "", pair[0]))):
        parts = re.split(r"(\{\w+[^{}]*\})", english.replace("{{", "\0").replace("}}", "\1"))
        names: list[str] = []
        pattern = ""
        for part in parts:
            field = re.fullmatch(r"\{(\w+)[^{}]*\}", part)
            if not field:
                pattern += re.escape(part.replace("\0", "{").replace("\1", "}"))
            elif field[1] in names:
                pattern += f"(?P={field[1]})"
            else:
                names.append(field[1])
                pattern += f"(?P<{field[1]}>.*?)"
        plain = re.sub(r"\{(\w+)[^{}]*\}", r"{\1}", korean.replace("{{", "\0").replace("}}", "\1"))
        found.append((re.compile(pattern), plain.replace("\0", "{{").replace("\1", "}}")))
    return found


TAG = r"(?:\[[a-z ]+\])?"
# of a line: its indent and, with two blanks behind it, its label
BEGINNING = re.compile(rf" *(?:{TAG}[✓✗](?:\[/\])? )?(?:{TAG}\w[\w ]{{0,11}}(?:\[/\])?  +)?")


def localized(text: str) -> str:
    """`text` with each line that the table has in Korean, its fields too, where the locale asks for it; else as it is."""
    return text if language() != "ko" else "\n".join(map(in_korean, text.split("\n")))


def in_korean(line: str) -> str:
    head = BEGINNING.match(line)[0]  # type: ignore[index]  # it matches any line
    for expression, korean in expressions():
        if found := expression.fullmatch(line, len(head)):
            return head + korean.format(**{name: in_korean(value) for name, value in found.groupdict().items()})
    return line
